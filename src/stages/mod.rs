//! The stages. Each reads a message once and acts on it with at most one outside effect, which may take several calls.
//! The result is an [`Outcome`]. A stage does not publish, does not settle and does not depend on AMQP.

pub(crate) mod deduplicator;
mod host;
mod link;
mod send;

use std::{
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
};

use futures_util::FutureExt;
use schemars::JsonSchema;
use serde::{Deserialize, de::DeserializeOwned};

pub use deduplicator::{Deduplicator, OnFailure, Retention};
pub use host::{HOST, HostRules, HostStage};
pub use link::{LINK, LinkStage};
pub(crate) use send::{EventSender, LINK_PARAMETER, NAME_PARAMETER, PACE_WAIT_MAX};
pub use send::{
    GuestSender, OnUnknown, SMS, SendError, SendRules, SendStage, SmsSender, WHATSAPP, WhatsappSender,
};

use crate::{
    contract::{
        BODY_BYTES_MAX,
        decode::{self, Invalid, Problem},
        identity::Identity,
        message::Message,
        stage::StageDef,
        start_session::Digest,
        time::WireTime,
        trace::TraceContext,
    },
    outcome::{Class, Death, Outcome},
};

/// All stages.
pub static ALL: &[&StageDef] = &[&LINK, &HOST, &SMS, &WHATSAPP];

/// The stages of a worker whose guest links other programs send.
static WITHOUT_SENDERS: &[&StageDef] = &[&LINK, &HOST];

/// The stages of a worker that sends the guest links itself.
static WITH_SENDERS: &[&StageDef] = &[&LINK_FOR_STAGES, &HOST, &SMS, &WHATSAPP];

/// Stage `link` where stages `sms` and `whatsapp` consume the guest links.
static LINK_FOR_STAGES: StageDef = StageDef { feeds: &[], ..LINK };

/// `guests.delivery`: who sends the guest links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GuestsDelivery {
    /// Other programs, which consume the queue `guests`.
    Amqp,
    /// Stages `sms` and `whatsapp`.
    WebexConnect,
}

impl GuestsDelivery {
    /// The stages of a worker.
    #[must_use]
    pub const fn stages(self) -> &'static [&'static StageDef] {
        match self {
            Self::Amqp => WITHOUT_SENDERS,
            Self::WebexConnect => WITH_SENDERS,
        }
    }
}

/// Reason of the death of a message whose session has ended.
pub(crate) const SESSION_OVER: &str = "the session has ended";

/// Maximum number of sends of a message if the result of each send is unknown.
const SENDS_MAX: u32 = 3;

/// One step in the processing of an event.
pub trait Stage: Send + Sync + 'static {
    /// A message of this stage, parsed and validated.
    type Job: Send;

    /// The stage's entry in the table.
    const DEF: &'static StageDef;

    /// Upper bound of the memory that processing `message` needs, in bytes, known without parsing.
    fn bytes_max(&self, message: &Message) -> usize;

    /// Parses and validates `message`.
    fn read(&self, message: &Message) -> Read<Self::Job>;

    /// True if the stage's API has another token than at the last call.
    fn has_new_token(&self) -> bool {
        false
    }

    /// Processes a job, including the stage's one outside effect.
    fn act(&self, job: Self::Job, context: &mut JobContext) -> impl Future<Output = Outcome> + Send;
}

/// A message as its stage reads it.
pub struct Read<J> {
    /// Event id, trace and time of the message, valid or not.
    pub identity: Identity,
    /// Name of the effect that the message requests; also the key of the ledger entry. Two messages with the same effect
    /// are never processed at the same time.
    pub effect: String,
    /// Approximate maximum of the memory that processing needs, in bytes.
    pub bytes: usize,
    /// The job, or the reason why the effect must not happen.
    pub job: Result<AcceptedJob<J>, Death>,
}

/// A job whose message is valid.
#[derive(Debug)]
pub struct AcceptedJob<J> {
    /// The job, as the stage needs it.
    pub job: J,
    /// Time after which nothing is sent: the end of the session, or earlier.
    pub deadline: WireTime,
    /// Digest of the content: the same at every repeat of the effect.
    pub digest: Digest,
}

/// Everything that a stage needs for a job besides the job.
pub struct JobContext {
    /// Position in the event's trace.
    pub trace: TraceContext,
    /// [`AcceptedJob::deadline`]. A stage sets it if an earlier attempt promised another end to the people of the session.
    pub deadline: WireTime,
    /// [`Read::effect`].
    pub effect: String,
    /// [`AcceptedJob::digest`].
    pub digest: Digest,
}

/// Without the effect, whose name contains an id that a flow chose.
impl<J> fmt::Debug for Read<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Read").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// Without the effect, whose name contains an id that a flow chose.
impl fmt::Debug for JobContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobContext").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// Reads a link message. It repeats parts of its event, so it is not much larger than an event.
fn read_link<T: DeserializeOwned>(message: &Message) -> Result<T, Invalid> {
    let (bytes, max) = (message.body.len(), 2 * BODY_BYTES_MAX);
    if bytes > max {
        return Err(Invalid::new("", Problem::TooLarge { bytes, max }));
    }
    decode::from_json(&message.body)
}

/// Lets `stage` read `message`; a panic becomes a death.
pub(crate) fn read<S: Stage>(stage: &S, message: &Message) -> Read<S::Job> {
    let read = catch_unwind(AssertUnwindSafe(|| stage.read(message)));
    read.unwrap_or_else(|_| {
        let identity = Identity::without_body(message);
        let effect = format!("{}:{}", S::DEF.name, identity.event_id.as_str());
        Read { identity, effect, bytes: message.body.len(), job: Err(panicked::<S>()) }
    })
}

/// Lets `stage` act on `job`; a panic becomes an outcome.
pub(crate) async fn act<S: Stage>(stage: &S, job: S::Job, context: &mut JobContext) -> Outcome {
    let act = AssertUnwindSafe(stage.act(job, context)).catch_unwind();
    act.await.unwrap_or_else(|_| Outcome::Dead(panicked::<S>()))
}

fn panicked<S: Stage>() -> Death {
    Death::new(Class::Internal, format!("stage {} panicked (bug; see the worker's log)", S::DEF.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    struct PanickingStage;

    impl Stage for PanickingStage {
        type Job = ();

        const DEF: &'static StageDef = &LINK;

        fn bytes_max(&self, _: &Message) -> usize {
            0
        }

        fn read(&self, _: &Message) -> Read<()> {
            panic!("a defect of the parser")
        }

        async fn act(&self, (): (), _: &mut JobContext) -> Outcome {
            panic!("a defect of the stage")
        }
    }

    fn is_panic(death: &Death) -> bool {
        let reason = "stage link panicked (bug; see the worker's log)";
        death.class == Class::Internal && death.reason == reason
    }

    #[tokio::test]
    async fn panic_of_a_stage_is_an_internal_death() {
        let message = Message { message_id: Some("event-1".to_owned()), ..Message::default() };
        let Read { identity, effect, job, .. } = read(&PanickingStage, &message);
        assert_eq!((identity.event_id.as_str(), effect.as_str()), ("event-1", "link:event-1"));
        assert!(is_panic(&job.unwrap_err()));
        let deadline = WireTime::floor(jiff::Timestamp::MAX);
        let trace = TraceContext::begin(&Random::system());
        let mut context = JobContext { trace, deadline, effect, digest: [0; 32] };
        let outcome = act(&PanickingStage, (), &mut context).await;
        assert!(matches!(&outcome, Outcome::Dead(death) if is_panic(death)), "{outcome:?}");
    }
}
