//! What is known of a dead letter.

use std::{fmt, time::Duration};

use jiff::{SignedDuration, Timestamp};
use lapin::{
    Acker, BasicProperties,
    message::Delivery,
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;
use strum::{EnumString, IntoStaticStr, VariantArray};
use uuid::Uuid;

use crate::{
    broker::{headers::Taken, is_unreadable, properties, topology::Topology},
    contract::{BODY_BYTES_MAX, cloud_event, header, ids, message::Message, start_session, time::WireTime},
    outcome::{Class, names},
};

/// Whose dead letters: the work queue they came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "lowercase", const_into_str, parse_err_ty = String, parse_err_fn = unknown_queue)]
pub(crate) enum DeadQueueKind {
    /// Start events, of stage `link`.
    Sessions,
    /// Guests' links, of the senders of text messages.
    Guests,
    /// Hosts' links, of stage `host`.
    Hosts,
}

impl DeadQueueKind {
    /// The queue's name without its prefix.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        self.into_str()
    }

    /// The work queue.
    #[must_use]
    pub(crate) fn queue(self, topology: &Topology) -> String {
        match self {
            Self::Sessions => topology.sessions_queue(),
            Self::Guests => topology.guests_queue(),
            Self::Hosts => topology.hosts_queue(),
        }
    }
}

fn unknown_queue(_: &str) -> String {
    format!("expected one of {}", names::<DeadQueueKind>())
}

/// A dead letter, taken and not acknowledged. Its `Debug` shows nothing private.
pub(crate) struct DeadLetter {
    /// The letter's own id: of this message and this death.
    pub id: Uuid,
    /// Whose it is.
    pub kind: DeadQueueKind,
    /// Why it is dead; `None` where it was not this program that put it here.
    pub class: Option<Class>,
    /// Why, for a person; shows nothing private.
    pub reason: String,
    /// Attempts counted.
    pub attempts: u32,
    /// How often it was replayed before.
    pub replays: u32,
    /// When it died.
    pub died_at: Option<Timestamp>,
    /// The start event's id, as it came.
    pub event: String,
    /// The session's id, as it came.
    pub session: Option<String>,
    /// How often the broker delivered it before.
    pub looks: u32,
    /// The body, where it is JSON.
    pub body: Option<Value>,
    /// Its properties can't be read: only its body and its place are known.
    pub unreadable: bool,
    /// The message itself.
    pub message: Message,
    /// Its properties.
    pub properties: BasicProperties,
    pub(super) acker: Acker,
}

impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter").field("id", &self.id).field("class", &self.class).finish_non_exhaustive()
    }
}

impl DeadLetter {
    /// What was delivered out of the dead queue of the `work` queue, as number `position` from 1 on.
    pub(super) fn of(kind: DeadQueueKind, work: &str, position: u32, mut delivery: Delivery) -> Self {
        let taken = Taken::Dead { queue: work, redelivered: delivery.redelivered };
        let message = properties::message(&delivery.properties, std::mem::take(&mut delivery.data), taken);
        let body = read(&message);
        let text = |name: &str| body.as_ref().and_then(|body| body.get(name)?.as_str()).map(str::to_owned);
        let event = match kind {
            DeadQueueKind::Sessions => start_session::identify(&message).event_id.as_str().to_owned(),
            DeadQueueKind::Guests | DeadQueueKind::Hosts => {
                text("eventId").or_else(|| message.message_id.clone()).unwrap_or_default()
            }
        };
        let broker = BrokersReason::of(delivery.properties.headers().as_ref());
        let dead_at = message.header(header::DEAD_AT).unwrap_or_default();
        let class = message.header(header::DEAD_CLASS).and_then(|class| class.parse().ok());
        let unreadable = is_unreadable(&delivery.properties);
        let reason = if unreadable {
            format!(
                "letter {position} of the queue: its properties can't be read (not UTF-8, or larger than a frame)"
            )
        } else {
            message.header(header::DEAD_REASON).map_or_else(|| broker.text(), str::to_owned)
        };
        let name = message.message_id.as_deref().unwrap_or_default();
        // The event's id, too: that of a CloudEvent in binary mode is in none of the others.
        let why = if unreadable { "unreadable" } else { &reason };
        let texts = [name, &event, dead_at, why].map(str::as_bytes);
        let id = [&texts[..], &[message.body.as_slice()]].concat().join(&0);
        Self {
            id: ids::hash(&id),
            kind,
            class: class.or(broker.class()),
            reason,
            attempts: message.attempts(),
            replays: message.header(header::REPLAYS).and_then(|text| text.parse().ok()).unwrap_or(0),
            died_at: dead_at.parse().ok().or(broker.at).or(message.first_failed_at()),
            event,
            session: text("sessionId"),
            looks: message.deliveries(),
            body,
            unreadable,
            message,
            properties: delivery.properties,
            acker: delivery.acker,
        }
    }

    /// How long it has been dead.
    #[must_use]
    pub(crate) fn age(&self, now: Timestamp) -> Option<Duration> {
        Some(Duration::try_from(now.duration_since(self.died_at?)).unwrap_or_default())
    }

    /// When its session ends: as the message says, else `link_lifetime` after the event's own time or its first failure, as
    /// [`start_session::Session::read`] has it.
    #[must_use]
    pub(crate) fn ends_at(&self, link_lifetime: Duration) -> Option<Timestamp> {
        let time = |name: &str| {
            let text = self.body.as_ref()?.get(name)?.as_str()?.to_owned();
            WireTime::try_from(text).ok().map(WireTime::timestamp)
        };
        if let Some(end) = time("expiresAt") {
            return Some(end);
        }
        let failed = self.message.first_failed_at().or(self.died_at);
        let occurred = Some(self.kind)
            .filter(|kind| *kind == DeadQueueKind::Sessions)
            .and_then(|_| start_session::identify(&self.message).occurred_at);
        let first = [failed, occurred].into_iter().flatten().min()?;
        let begin = time("notBefore").map_or(first, |not_before| not_before.max(first));
        let lifetime = SignedDuration::try_from(link_lifetime).unwrap_or(SignedDuration::MAX);
        Some(begin.saturating_add(lifetime).unwrap_or(Timestamp::MAX))
    }
}

/// The body as JSON, without a `CloudEvent`'s wrapping. What no stage would read is not read here.
fn read(message: &Message) -> Option<Value> {
    if message.body.len() > 2 * BODY_BYTES_MAX {
        return None;
    }
    let unwrapped = cloud_event::unwrap(message).ok();
    serde_json::from_slice(unwrapped.map_or(&message.body, |unwrapped| unwrapped.data)).ok()
}

/// What the broker says of a message that it put into a dead queue itself (header `x-death`, the latest entry first).
#[derive(Default)]
struct BrokersReason {
    reason: String,
    at: Option<Timestamp>,
}

impl BrokersReason {
    fn of(headers: Option<&FieldTable>) -> Self {
        let Some(AMQPValue::FieldArray(deaths)) = headers.and_then(|table| table.inner().get("x-death"))
        else {
            return Self::default();
        };
        let Some(AMQPValue::FieldTable(latest)) = deaths.as_slice().first() else { return Self::default() };
        let reason = match latest.inner().get("reason") {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            _ => String::new(),
        };
        let at = match latest.inner().get("time") {
            Some(AMQPValue::Timestamp(seconds)) => {
                i64::try_from(*seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok())
            }
            _ => None,
        };
        Self { reason, at }
    }

    fn class(&self) -> Option<Class> {
        (self.reason == "delivery_limit").then_some(Class::Poison)
    }

    fn text(&self) -> String {
        match self.reason.as_str() {
            "delivery_limit" => {
                "the broker put it here: delivered again and again without an outcome".to_owned()
            }
            "rejected" => "a consumer of the queue rejected it".to_owned(),
            "expired" => "the broker put it here: its time to live was over".to_owned(),
            _ => "nothing says why".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: &str = "p.sessions";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// A letter that the broker itself put there at 12:00, of an event without `expiresAt`.
    fn letter(first_failed_at: Option<&str>, timestamp: Option<&str>) -> DeadLetter {
        let mut death = FieldTable::default();
        death.insert(
            "time".into(),
            AMQPValue::Timestamp(at("2026-11-21T12:00:00Z").as_second().unsigned_abs()),
        );
        let mut headers = FieldTable::default();
        headers.insert("x-death".into(), AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into()));
        if let Some(failed) = first_failed_at {
            let copied_to = format!("{WORK}.hold.1000");
            for (name, text) in [(header::FIRST_FAILED_AT, failed), (header::COPIED_TO, &copied_to)] {
                headers.insert(name.into(), AMQPValue::LongString(text.into()));
            }
        }
        let mut delivery = Delivery::mock(1, "".into(), WORK.into(), true, br#"{"sessionId": "s"}"#.to_vec());
        delivery.properties = BasicProperties::default().with_headers(headers);
        if let Some(timestamp) = timestamp {
            delivery.properties =
                delivery.properties.with_timestamp(at(timestamp).as_second().unsigned_abs());
        }
        DeadLetter::of(DeadQueueKind::Sessions, WORK, 1, delivery)
    }

    #[test]
    fn letter_of_the_broker_died_when_the_broker_says() {
        for failed in [None, Some("2026-11-21T02:00:00Z")] {
            assert_eq!(letter(failed, None).died_at, Some(at("2026-11-21T12:00:00Z")));
        }
    }

    #[test]
    fn session_without_an_end_is_over_when_the_stage_would_say_so() {
        let ends_at =
            |failed, timestamp| letter(failed, timestamp).ends_at(Duration::from_secs(7200)).unwrap();
        let (failed, sent) = (Some("2026-11-21T11:00:00Z"), Some("2026-11-21T10:30:00Z"));
        assert_eq!(ends_at(None, None), at("2026-11-21T14:00:00Z"));
        assert_eq!(ends_at(failed, None), at("2026-11-21T13:00:00Z"));
        assert_eq!(ends_at(failed, sent), at("2026-11-21T12:30:00Z"));
    }
}
