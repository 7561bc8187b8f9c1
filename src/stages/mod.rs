//! The stages: each a function from a message to an [`Outcome`], with at most one outside effect, which may take several
//! calls. A stage neither publishes nor settles, and knows nothing of AMQP.

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

/// One step on an event's way.
pub trait Stage: Send + Sync + 'static {
    /// `link` or `host`, for logs and metrics.
    const NAME: &'static str;

    /// What `message` is known by, whatever becomes of it.
    fn identify(&self, message: &Message) -> Identity;

    /// The name of the effect that `message` asks for: that of its entry in the ledger. Two messages with the same one are never
    /// worked on at once.
    fn effect(&self, message: &Message, identity: &Identity) -> String;

    /// When the session of `message` is over.
    ///
    /// # Errors
    /// [`Death`] of a message that ends without its effect, as far as the message alone tells.
    fn deadline(&self, message: &Message) -> Result<WireTime, Death>;

    /// The most bytes of memory that the work on `message` takes, about.
    fn bytes(&self, message: &Message) -> usize;

    /// Decides what becomes of `message`, and has the stage's one outside effect.
    fn handle(&self, message: &Message) -> impl Future<Output = Outcome> + Send;
}

/// Runs `stage` on `message`; a panic is an outcome like any other.
pub(crate) async fn run<S: Stage>(stage: &S, message: &Message) -> Outcome {
    let run = AssertUnwindSafe(stage.handle(message)).catch_unwind();
    run.await.unwrap_or_else(|_| {
        Outcome::Dead(Death::new(
            Class::Internal,
            format!("stage {} panicked; this is a defect of the worker, see its log", S::NAME),
        ))
    })
}
