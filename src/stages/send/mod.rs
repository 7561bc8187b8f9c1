//! Stages `sms` and `whatsapp`: send a guest link to the guest through Webex Connect.

mod address_limit;
mod event;
mod pace;
mod sms;
mod whatsapp;

use std::{future::Future, time::Duration};

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::{info, warn};
use uuid::Uuid;

use self::pace::SendPace;
pub(crate) use self::{
    event::EventSender,
    sms::SmsSender,
    whatsapp::{LINK_PARAMETER, NAME_PARAMETER, WhatsappSender},
};
pub use self::{sms::SMS, whatsapp::WHATSAPP};
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
        stage::StageDef,
        time::WireTime,
        trace::TraceContext,
    },
    fault,
    instant_connect::response::LinkRules,
    ledger::Lease,
    outcome::{Batch, Class, Death, Outcome},
    upstream::UpstreamError,
    webex_connect::client::AcceptedMessage,
};

/// Ledger result of a message that was sent.
const SENT: &[u8] = b"sent";

/// How often a message is sent at most if each time nobody knows whether it was sent.
const SENDS_MAX: u32 = 3;

/// Ledger note before a message is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SendNote {
    /// Number of times that the message may have been sent.
    sends: u32,
    /// The replay of the dead letter to which the number belongs, because an operator decided to send it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replayed_at: Option<Timestamp>,
}

impl SendNote {
    /// What is noted for the message with the last replay `replayed_at`.
    fn noted(lease: Option<&Lease>, replayed_at: Option<Timestamp>) -> Self {
        let noted = lease.and_then(Lease::note).and_then(|note| serde_json::from_slice::<Self>(note).ok());
        let noted = noted.filter(|noted| noted.replayed_at == replayed_at);
        noted.unwrap_or(Self { sends: 0, replayed_at })
    }

    fn again(self) -> Self {
        Self { sends: self.sends.saturating_add(1), ..self }
    }
}

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
    /// Maximum number of messages of the stage per second.
    pub(crate) rate: Option<u32>,
    /// Maximum number of messages to one number in an hour.
    pub(crate) per_address_per_hour: Option<u32>,
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
    pace: Option<SendPace>,
}

impl<C: GuestSender> SendStage<C> {
    /// A stage that sends by `sender`.
    #[must_use]
    pub(crate) fn new(sender: C, rules: SendRules, deduplicator: Deduplicator) -> Self {
        let pace = rules.rate.map(SendPace::new);
        Self { sender, rules, deduplicator, pace }
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
        let noted = SendNote::noted(lease.as_ref(), job.replayed_at);
        let noted_before = noted.sends > 0;
        if noted_before {
            if self.rules.on_unknown == OnUnknown::Dead || noted.sends >= SENDS_MAX {
                return Outcome::Dead(maybe_sent(noted.sends));
            }
            warn!(sends = noted.sends, "sending a guest link again: the last attempt may have sent it");
        }
        // The time may have passed while the claim was awaited.
        let left = self.left(*deadline);
        if left < self.rules.min_remaining {
            if !noted_before {
                Deduplicator::release(lease).await;
            }
            return Outcome::Dead(self.too_late());
        }
        let admitted = async {
            self.count(job, *digest).await?;
            self.await_turn().await
        };
        if let Err(outcome) = admitted.await {
            if !noted_before {
                Deduplicator::release(lease).await;
            }
            return outcome;
        }
        fault::point(C::DEF.name, "counted");
        let Ok(note) = serde_json::to_vec(&noted.again()) else {
            return Outcome::Dead(Death::new(Class::Internal, "could not write the note of a message"));
        };
        // Waits for the ledger. A note that was given up and written late would count as a message that may have been sent.
        if let Some(outcome) = self.deduplicator.note_part(&mut lease, &note, *deadline).await {
            return outcome;
        }
        let left = self.left(*deadline);
        fault::point(C::DEF.name, "noted");
        let sent = self.sender.send(&job.link, &job.id, trace, left).await;
        fault::point(C::DEF.name, "answered");
        match sent {
            Ok(accepted) => {
                info!(connect_id = accepted.id.as_deref().unwrap_or("none"), "guest link sent");
                self.sent(lease, *deadline).await
            }
            Err(error) => self.failed(error, lease, noted, *deadline).await,
        }
    }

    async fn sent(&self, lease: Option<Lease>, deadline: WireTime) -> Outcome {
        let recorded = self.deduplicator.record(lease, SENT, deadline).await;
        fault::point(C::DEF.name, "recorded");
        recorded.unwrap_or(Outcome::Done(Batch::default()))
    }

    async fn failed(
        &self,
        error: SendError,
        mut lease: Option<Lease>,
        noted: SendNote,
        deadline: WireTime,
    ) -> Outcome {
        let may_be_sent = matches!(&error, SendError::Failed(error) if error.unknown);
        // Without the ledger nobody counts how often it may have been sent.
        if may_be_sent && lease.is_none() {
            return Outcome::Dead(maybe_sent(1));
        }
        // The note of this attempt stays if the message may have been sent, and that of earlier attempts in any case.
        if !may_be_sent {
            if noted.sends == 0 {
                Deduplicator::release(lease).await;
            } else if let Ok(note) = serde_json::to_vec(&noted) {
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

/// The death of a message that may have been sent `sends` times.
fn maybe_sent(sends: u32) -> Death {
    let times = if sends == 1 { "once".to_owned() } else { format!("{sends} times") };
    let advice = "a replay sends it again";
    Death::new(
        Class::Exhausted,
        format!("it may have been sent {times}, and nobody knows (send.on_unknown); {advice}"),
    )
}

/// A guest link to send.
#[derive(Debug)]
pub(crate) struct GuestJob {
    link: GuestLink,
    /// The last replay of the message, if it was a dead letter.
    replayed_at: Option<Timestamp>,
    /// The message's AMQP timestamp.
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
            effect: format!("send:{id}"),
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
