//! Stages `sms` and `whatsapp`: send a guest link to the guest through Webex Connect.

mod notes;
mod sms;
mod unknown;
mod whatsapp;

use std::{future::Future, time::Duration};

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tracing::{info, warn};
use uuid::Uuid;

use self::unknown::{Resolution, maybe_sent};
pub use self::{sms::SMS, whatsapp::WHATSAPP};
pub(crate) use self::{
    sms::SmsSender,
    whatsapp::{LINK_PARAMETER, NAME_PARAMETER, WhatsappSender},
};
use super::{
    AcceptedJob, JobContext, Read, SESSION_OVER, Stage,
    deduplicator::{Begun, Deduplicator},
    read_link,
};
use crate::{
    contract::{
        decode::Invalid,
        identity::Identity,
        ids::{self, EventId},
        link::GuestLink,
        message::Message,
        people::{Channel, NumberPrefixes},
        receipt::{SendNote, send_key},
        stage::StageDef,
        time::WireTime,
        trace::TraceContext,
    },
    fault,
    instant_connect::response::LinkRules,
    ledger::Lease,
    outcome::{Batch, Class, Death, Outcome},
    telemetry::metrics::{ReceiptMetrics, labels::ResolvedBy},
    upstream::UpstreamError,
    webex_connect::client::AcceptedMessage,
};

/// Copies of a link's bytes in memory at the same time: received, parsed, rendered, being sent.
const COPIES: usize = 4;

/// What happens to a message that may have been sent: Webex Connect did not answer, or the worker crashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnUnknown {
    /// It is sent again, at most twice: the guest may get it several times.
    Repeat,
    /// It becomes a dead letter: the guest may get none.
    Dead,
}

/// Rules for the messages of both stages.
#[derive(Clone, Debug)]
pub(crate) struct SendRules {
    /// Accepted links.
    pub(crate) links: LinkRules,
    /// The numbers that may be sent to.
    pub(crate) numbers: NumberPrefixes,
    /// Least time until the session's end.
    pub(crate) min_remaining: Duration,
    /// What happens to a message that may have been sent.
    pub(crate) on_unknown: OnUnknown,
    /// Time for which a message that may have been sent waits for its receipt. `None`: receipts are off.
    pub(crate) receipt_wait: Option<Duration>,
}

/// Sends guest links on one channel.
pub(crate) trait GuestSender: Send + Sync + 'static {
    /// The stage's entry in the table.
    const DEF: &'static StageDef;
    /// The channel of the stage's messages.
    const CHANNEL: Channel;

    /// True if the API has another key than at the last call.
    fn has_new_token(&self) -> bool;

    /// Sends `link` within `left`. Receipts name the message by `id`.
    fn send(
        &self,
        link: &GuestLink,
        id: &Uuid,
        trace: &TraceContext,
        left: Duration,
    ) -> impl Future<Output = Result<AcceptedMessage, SendError>> + Send;
}

/// A message that was not sent.
#[derive(Debug)]
pub(crate) enum SendError {
    /// The link cannot be sent on this channel.
    Unsendable(Death),
    /// The call failed.
    Failed(UpstreamError),
}

/// One of the stages that send guest links.
#[derive(Debug)]
pub(crate) struct SendStage<C> {
    sender: C,
    rules: SendRules,
    deduplicator: Deduplicator,
    metrics: ReceiptMetrics,
}

impl<C: GuestSender> SendStage<C> {
    /// A stage that sends by `sender`.
    #[must_use]
    pub(crate) const fn new(
        sender: C,
        rules: SendRules,
        deduplicator: Deduplicator,
        metrics: ReceiptMetrics,
    ) -> Self {
        Self { sender, rules, deduplicator, metrics }
    }

    /// Sends `job`, unless it was already sent.
    async fn deliver(&self, job: &GuestJob, context: &JobContext) -> Outcome {
        let JobContext { trace, deadline, effect, digest } = context;
        let mut lease = match self.deduplicator.begin(effect, *digest).await {
            Begun::Act(lease) => lease,
            Begun::Done => return Outcome::DoneBefore(Batch::default()),
            Begun::Stop(outcome) => return outcome,
        };
        fault::point(C::DEF.name, "claimed");
        let noted = notes::noted(lease.as_ref(), job.replayed_at);
        let noted_before = noted.sends > 0;
        if noted_before {
            match self.resolve(&noted, &job.id, *deadline).await {
                Resolution::Repeat => {
                    warn!(
                        sends = noted.sends,
                        "sending a guest link again: the last attempt may have sent it"
                    );
                }
                Resolution::Sent => return self.receipt_found(lease, &noted, *deadline).await,
                Resolution::Stop(outcome) => return outcome,
            }
        }
        // The time may have passed while the claim was awaited.
        let left = self.left(*deadline);
        if left < self.rules.min_remaining {
            if noted_before {
                self.metrics.resolved(ResolvedBy::Dead);
            } else {
                Deduplicator::release(lease).await;
            }
            return Outcome::Dead(self.too_late());
        }
        let sending = SendNote { about: self.about(job), ..noted.again(self.deduplicator.clock().now()) };
        let Ok(note) = serde_json::to_vec(&sending) else {
            return Outcome::Dead(Death::new(Class::Internal, "could not write the note of a message"));
        };
        // Waits for the ledger. A note that was given up and written late would count as a message that may have been sent.
        if let Some(outcome) = self.deduplicator.note_part(&mut lease, &note, *deadline).await {
            return outcome;
        }
        if noted_before {
            self.metrics.resolved(ResolvedBy::Repeat);
        }
        let left = self.left(*deadline);
        fault::point(C::DEF.name, "noted");
        let sent = self.sender.send(&job.link, &job.id, trace, left).await;
        fault::point(C::DEF.name, "answered");
        match sent {
            Ok(accepted) => {
                info!(connect_id = accepted.id.as_deref().unwrap_or("none"), "guest link sent");
                let recorded = self.record(lease, &sending, *deadline).await;
                recorded.unwrap_or(Outcome::Done(Batch::default()))
            }
            Err(error) => self.failed(error, lease, &noted, *deadline).await,
        }
    }

    async fn failed(
        &self,
        error: SendError,
        mut lease: Option<Lease>,
        noted: &SendNote,
        deadline: WireTime,
    ) -> Outcome {
        let may_be_sent = matches!(&error, SendError::Failed(error) if error.unknown);
        // Without the ledger nobody counts how often it may have been sent.
        if may_be_sent && lease.is_none() {
            self.metrics.resolved(ResolvedBy::Dead);
            return Outcome::Dead(maybe_sent(1));
        }
        // The note of this attempt stays if the message may have been sent, and that of earlier attempts in any case.
        if !may_be_sent {
            if noted.sends == 0 {
                Deduplicator::release(lease).await;
            } else if let Ok(note) = serde_json::to_vec(noted) {
                // Without this note the attempt counts, which ends the message earlier.
                _ = self.deduplicator.note_part(&mut lease, &note, deadline).await;
            }
            fault::point(C::DEF.name, "released");
        }
        match error {
            SendError::Unsendable(death) => Outcome::Dead(death),
            SendError::Failed(error) => error.into_outcome(),
        }
    }

    /// Time until `deadline`; zero if it has passed.
    fn left(&self, deadline: WireTime) -> Duration {
        let left: SignedDuration = deadline.timestamp().duration_since(self.deduplicator.clock().now());
        Duration::try_from(left).unwrap_or_default()
    }

    fn too_late(&self) -> Death {
        let least = self.rules.min_remaining.as_secs();
        Death::new(
            Class::Expired,
            format!("fewer than {least} s are left until the session's end (send.min_remaining)"),
        )
    }

    /// Refuses a link of another channel, one that is not Instant Connect's, a number without an allowed prefix, and a session that
    /// has ended.
    fn checked(&self, link: GuestLink, now: Timestamp) -> Result<GuestLink, Death> {
        let invalid = |path: &str, expected: String| Death::new(Class::Invalid, Invalid::new(path, expected));
        if link.channel != C::CHANNEL {
            return Err(invalid("channel", format!("expected {}", C::CHANNEL)));
        }
        // Other producers may write to the queue.
        if !self.rules.links.allow_guest(&link.address) {
            return Err(invalid("url", "expected a guest's link of Instant Connect".to_owned()));
        }
        if !self.rules.numbers.allow(&link.to) {
            let expected = "expected a number that begins with one of send.allowed_prefixes";
            return Err(invalid("to", expected.to_owned()));
        }
        if link.expires_at.timestamp() <= now {
            return Err(Death::new(Class::Expired, SESSION_OVER));
        }
        Ok(link)
    }
}

/// A guest link to send.
#[derive(Debug)]
pub(crate) struct GuestJob {
    link: GuestLink,
    /// The last replay of the message, if it was a dead letter.
    replayed_at: Option<Timestamp>,
    /// When the link was published.
    published_at: Option<Timestamp>,
    /// The id by which receipts name the message: the link's `message_id`.
    id: Uuid,
}

impl<C: GuestSender> Stage for SendStage<C> {
    type Job = GuestJob;

    const DEF: &'static StageDef = C::DEF;

    fn bytes_max(&self, message: &Message) -> usize {
        COPIES * message.body.len()
    }

    fn read(&self, message: &Message) -> Read<GuestJob> {
        let link: Result<GuestLink, _> = read_link(message);
        let known = link.as_ref().ok().map(|link| link.event_id.as_str()).or(message.message_id.as_deref());
        let id = message_id(message);
        let digest = Sha256::digest(id.as_bytes()).into();
        Read {
            identity: Identity {
                event_id: EventId::of(known, None, &message.body),
                ..Identity::without_body(message)
            },
            effect: send_key(&id),
            bytes: self.bytes_max(message),
            job: link
                .map_err(|invalid| Death::new(Class::Invalid, invalid))
                .and_then(|link| self.checked(link, self.deduplicator.clock().now()))
                .map(|link| AcceptedJob {
                    deadline: link.expires_at,
                    digest,
                    job: GuestJob {
                        link,
                        id,
                        replayed_at: message.replayed_at(),
                        published_at: message.published_at,
                    },
                }),
        }
    }

    fn has_new_token(&self) -> bool {
        self.sender.has_new_token()
    }

    async fn act(&self, job: GuestJob, context: &mut JobContext) -> Outcome {
        fault::point(C::DEF.name, "read");
        self.deliver(&job, context).await
    }
}

/// Id of the message; the same for every repeat of an effect.
fn message_id(message: &Message) -> Uuid {
    let given = message.message_id.as_deref();
    given.map_or_else(
        || ids::hash(&message.body),
        |id| Uuid::try_parse(id).unwrap_or_else(|_| ids::hash(id.as_bytes())),
    )
}
