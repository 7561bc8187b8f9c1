//! The stages. Each is a function from a message to an [`Outcome`], with at most one outside effect, which may take
//! several calls. A stage does not publish, does not settle and does not depend on AMQP.

pub(crate) mod deduplicator;
mod host;
mod link;

use std::{future::Future, panic::AssertUnwindSafe};

use futures_util::FutureExt;

pub(crate) use deduplicator::{Deduplicator, OnFailure, Retention};
pub(crate) use host::HostStage;
pub(crate) use link::LinkStage;

use crate::{
    contract::{message::Message, start_session::Identity, time::WireTime},
    outcome::{Class, Death, Outcome},
};

/// One step in the processing of an event.
pub trait Stage: Send + Sync + 'static {
    /// `link` or `host`, for logs and metrics.
    const NAME: &'static str;

    /// Event id and trace context of a message, valid or not.
    fn identify(&self, message: &Message) -> Identity;

    /// Name of the effect that `message` requests; also the key of the ledger entry. Two messages with the same effect
    /// are never processed at the same time.
    fn effect(&self, message: &Message, identity: &Identity) -> String;

    /// Time when the session of `message` ends.
    ///
    /// # Errors
    /// [`Death`] if the message alone shows that the effect must not happen.
    fn deadline(&self, message: &Message) -> Result<WireTime, Death>;

    /// Approximate maximum of the memory that processing `message` needs, in bytes.
    fn bytes(&self, message: &Message) -> usize;

    /// Processes `message`, including the stage's one outside effect.
    fn handle(&self, message: &Message) -> impl Future<Output = Outcome> + Send;
}

/// Runs `stage` on `message`; a panic becomes an outcome.
pub(crate) async fn run<S: Stage>(stage: &S, message: &Message) -> Outcome {
    let run = AssertUnwindSafe(stage.handle(message)).catch_unwind();
    run.await.unwrap_or_else(|_| {
        Outcome::Dead(Death::new(
            Class::Internal,
            format!("stage {} panicked (bug; see the worker's log)", S::NAME),
        ))
    })
}
