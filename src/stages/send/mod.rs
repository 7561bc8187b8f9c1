//! Stages `sms` and `whatsapp`: send a guest link to the guest through Webex Connect.
//!
//! - `deliver`: one delivery, from the claim to the record
//! - `unknown`: a message that may have been sent
//! - `address_limit`, `pace`: limits
//! - `sender`, `sms`, `whatsapp`, `event`: the channels, and flows instead of them

mod address_limit;
mod deliver;
mod event;
mod pace;
mod rules;
mod sender;
mod sms;
mod unknown;
mod whatsapp;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::pace::SendPace;
pub(crate) use self::pace::WAIT_MAX as PACE_WAIT_MAX;
pub(crate) use self::{
    event::EventSender,
    whatsapp::{LINK_PARAMETER, NAME_PARAMETER},
};
pub use self::{
    rules::{OnUnknown, SendRules},
    sender::{GuestSender, SendError},
    sms::{SMS, SmsSender},
    whatsapp::{WHATSAPP, WhatsappSender},
};
use super::{AcceptedJob, JobContext, Read, SESSION_OVER, Stage, deduplicator::Deduplicator, read_link};
use crate::{
    contract::{
        decode::Invalid,
        identity::Identity,
        ids::{self, EventId},
        link::GuestLink,
        message::Message,
        receipt::send_key,
        stage::StageDef,
        time::WireTime,
    },
    fault,
    outcome::{Class, Death, Outcome},
    telemetry::metrics::ReceiptMetrics,
};

/// Copies of a link's bytes in memory at the same time: received, parsed, rendered, being sent.
const COPIES: usize = 4;

/// One of the stages that send guest links.
#[derive(Debug)]
pub struct SendStage<C> {
    sender: C,
    rules: SendRules,
    deduplicator: Deduplicator,
    metrics: ReceiptMetrics,
    pace: Option<SendPace>,
    /// The worker stops.
    stop: CancellationToken,
}

impl<C: GuestSender> SendStage<C> {
    /// A stage that sends by `sender`.
    #[must_use]
    pub fn new(
        sender: C,
        rules: SendRules,
        deduplicator: Deduplicator,
        metrics: ReceiptMetrics,
        stop: CancellationToken,
    ) -> Self {
        let pace = rules.rate.map(SendPace::new);
        Self { sender, rules, deduplicator, metrics, pace, stop }
    }

    /// True if nothing is sent any more.
    fn is_late(&self, deadline: WireTime) -> bool {
        deadline.timestamp() <= self.deduplicator.clock().now()
    }

    /// Time until `expires_at`; zero if it has passed.
    fn left(&self, expires_at: WireTime) -> Duration {
        let left: SignedDuration = expires_at.timestamp().duration_since(self.deduplicator.clock().now());
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
    /// has ended or has too little time left.
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
        if self.deadline(&link).timestamp() <= now {
            return Err(self.too_late());
        }
        Ok(link)
    }

    /// The time from which on `link` is not sent, because too little is left of its session.
    fn deadline(&self, link: &GuestLink) -> WireTime {
        let min_remaining = SignedDuration::try_from(self.rules.min_remaining).unwrap_or(SignedDuration::MAX);
        let last = link.expires_at.timestamp().checked_sub(min_remaining);
        WireTime::floor(last.unwrap_or(Timestamp::MIN))
    }
}

/// A guest link to send.
#[derive(Debug)]
pub struct GuestJob {
    link: GuestLink,
    /// The last replay of the message, if it was a dead letter.
    replayed_at: Option<Timestamp>,
    /// When the link was published: the message's AMQP timestamp.
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
                    deadline: self.deadline(&link),
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
        // Receipts of other ids would count as those of other programs.
        |id| ours(id).unwrap_or_else(|| ids::hash(id.as_bytes())),
    )
}

/// `id` as a UUID, if it is one that this program may have made.
fn ours(id: &str) -> Option<Uuid> {
    Uuid::try_parse(id).ok().filter(|id| id.get_version_num() == 5)
}

#[cfg(test)]
mod tests;
