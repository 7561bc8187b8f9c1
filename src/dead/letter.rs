//! The contents of a dead letter.

use std::{fmt, time::Duration};

use jiff::{SignedDuration, Timestamp};
use lapin::{
    Acker, BasicProperties,
    message::Delivery,
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    broker::{headers::Taken, is_unreadable, properties},
    contract::{
        BODY_BYTES_MAX, cloud_event, header, ids,
        message::Message,
        stage::{MessageKind, QueueDef, queues},
        start_session,
        time::WireTime,
    },
    outcome::Class,
    stages,
};

/// All work queues.
pub(crate) fn work_queues() -> impl Iterator<Item = &'static QueueDef> {
    queues(stages::ALL)
}

/// The work queue with this name, without the prefix.
///
/// # Errors
/// The known names.
pub(crate) fn work_queue(name: &str) -> Result<&'static QueueDef, String> {
    work_queues().find(|queue| queue.name == name).ok_or_else(|| {
        let known: Vec<_> = work_queues().map(|queue| queue.name).collect();
        format!("expected one of {}", known.join(", "))
    })
}

/// A dead letter, delivered and not acknowledged. Its `Debug` shows nothing private.
pub(crate) struct DeadLetter {
    /// The letter's own id, made from this message and this death.
    pub id: Uuid,
    /// The work queue it came from.
    pub work: &'static QueueDef,
    /// Class of the dead letter; `None` if neither this program nor the broker named one.
    pub class: Option<Class>,
    /// Reason of the death, for a person; shows nothing private.
    pub reason: String,
    /// Counted attempts.
    pub attempts: u32,
    /// Number of earlier replays.
    pub replays: u32,
    /// Time of death.
    pub died_at: Option<Timestamp>,
    /// The start event's id, unmasked.
    pub event: String,
    /// The session's id, unmasked.
    pub session: Option<String>,
    /// Number of earlier deliveries by the broker.
    pub deliveries: u32,
    /// `notBefore` and `expiresAt` of the body. The parsed body is not kept: it may take ten times the memory of its text.
    times: [Option<Timestamp>; 2],
    /// True if the properties are unreadable, so that only body and position are known.
    pub unreadable: bool,
    pub message: Message,
    /// The AMQP properties of the delivery.
    pub properties: BasicProperties,
    pub(super) acker: Acker,
}

impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter").field("id", &self.id).field("class", &self.class).finish_non_exhaustive()
    }
}

impl DeadLetter {
    /// Reads a delivery from the dead queue of `work`, whose name is `queue`, at `position` from 1.
    pub(super) fn of(work: &'static QueueDef, queue: &str, position: u32, mut delivery: Delivery) -> Self {
        let taken = Taken::Dead { queue, redelivered: delivery.redelivered };
        let message = properties::message(&delivery.properties, std::mem::take(&mut delivery.data), taken);
        let body = parse_body(&message);
        let time = |name: &str| {
            let text = body.as_ref()?.get(name)?.as_str()?.to_owned();
            WireTime::try_from(text).ok().map(WireTime::timestamp)
        };
        let text = |name: &str| body.as_ref().and_then(|body| body.get(name)?.as_str()).map(str::to_owned);
        let event = match work.messages {
            MessageKind::StartEvent => start_session::identify(&message).event_id.as_str().to_owned(),
            MessageKind::GuestLink | MessageKind::HostLink => {
                text("eventId").or_else(|| message.message_id.clone()).unwrap_or_default()
            }
        };
        let broker = BrokerDeath::of(delivery.properties.headers().as_ref());
        let dead_at = message.header(header::DEAD_AT).unwrap_or_default();
        let class = message.header(header::DEAD_CLASS).and_then(|class| class.parse().ok());
        let unreadable = is_unreadable(&delivery.properties);
        let reason = if unreadable {
            format!(
                "letter {position} of the queue has unreadable properties (not UTF-8, or larger than a frame)"
            )
        } else {
            message.header(header::DEAD_REASON).map_or_else(|| broker.text(), str::to_owned)
        };
        let name = message.message_id.as_deref().unwrap_or_default();
        // Includes the event's id, because a binary-mode CloudEvent has it in none of the other parts.
        // Of a letter that the broker buried, the broker's word: our sentence for it may change.
        let written = message.header(header::DEAD_REASON);
        let cause = if unreadable { "unreadable" } else { written.unwrap_or(&broker.reason) };
        let texts = [name, &event, dead_at, cause].map(str::as_bytes);
        let id = [&texts[..], &[message.body.as_slice()]].concat().join(&0);
        Self {
            id: ids::hash(&id),
            work,
            class: class.or(broker.class()),
            reason,
            attempts: message.attempts(),
            replays: message.header(header::REPLAYS).and_then(|text| text.parse().ok()).unwrap_or(0),
            died_at: dead_at.parse().ok().or(broker.at).or(message.first_failed_at()),
            event,
            session: text("sessionId"),
            deliveries: message.deliveries(),
            times: ["notBefore", "expiresAt"].map(time),
            unreadable,
            message,
            properties: delivery.properties,
            acker: delivery.acker,
        }
    }

    /// The body, if it is JSON.
    #[must_use]
    pub(crate) fn json(&self) -> Option<Value> {
        parse_body(&self.message)
    }

    /// Time since the death.
    #[must_use]
    pub(crate) fn age(&self, now: Timestamp) -> Option<Duration> {
        Some(Duration::try_from(now.duration_since(self.died_at?)).unwrap_or_default())
    }

    /// End of the session: the message's `expiresAt`, else `link_lifetime` after the event's own time or first failure, as in
    /// [`start_session::Session::read`].
    #[must_use]
    pub(crate) fn ends_at(&self, link_lifetime: Duration) -> Option<Timestamp> {
        let [not_before, expires_at] = self.times;
        if expires_at.is_some() {
            return expires_at;
        }
        let failed = self.message.first_failed_at().or(self.died_at);
        let occurred = Some(self.work.messages)
            .filter(|kind| *kind == MessageKind::StartEvent)
            .and_then(|_| start_session::identify(&self.message).occurred_at);
        let first = [failed, occurred].into_iter().flatten().min()?;
        let begin = not_before.map_or(first, |not_before| not_before.max(first));
        let lifetime = SignedDuration::try_from(link_lifetime).unwrap_or(SignedDuration::MAX);
        Some(begin.saturating_add(lifetime).unwrap_or(Timestamp::MAX))
    }
}

/// Parses the body as JSON, without its `CloudEvent` envelope. Bodies too large for any stage are not parsed.
fn parse_body(message: &Message) -> Option<Value> {
    if message.body.len() > 2 * BODY_BYTES_MAX {
        return None;
    }
    let unwrapped = cloud_event::unwrap(message).ok();
    serde_json::from_slice(unwrapped.map_or(&message.body, |unwrapped| unwrapped.data)).ok()
}

/// The broker's record of a message that it dead-lettered itself (header `x-death`, latest entry first).
#[derive(Default)]
struct BrokerDeath {
    reason: String,
    at: Option<Timestamp>,
}

impl BrokerDeath {
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
                "dead-lettered by the broker: delivered repeatedly without an outcome".to_owned()
            }
            "rejected" => "rejected by a consumer of the queue".to_owned(),
            "expired" => "dead-lettered by the broker: its time to live expired".to_owned(),
            _ => "no reason recorded".to_owned(),
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

    /// A letter that the broker itself dead-lettered at 12:00, of an event without `expiresAt`.
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
        DeadLetter::of(&start_session::SESSIONS, WORK, 1, delivery)
    }

    #[test]
    fn broker_dead_letter_has_the_brokers_time_of_death() {
        for failed in [None, Some("2026-11-21T02:00:00Z")] {
            assert_eq!(letter(failed, None).died_at, Some(at("2026-11-21T12:00:00Z")));
        }
    }

    #[test]
    fn session_without_expires_at_ends_as_in_the_stage() {
        let ends_at =
            |failed, timestamp| letter(failed, timestamp).ends_at(Duration::from_secs(7200)).unwrap();
        let (failed, sent) = (Some("2026-11-21T11:00:00Z"), Some("2026-11-21T10:30:00Z"));
        assert_eq!(ends_at(None, None), at("2026-11-21T14:00:00Z"));
        assert_eq!(ends_at(failed, None), at("2026-11-21T13:00:00Z"));
        assert_eq!(ends_at(failed, sent), at("2026-11-21T12:30:00Z"));
    }
}
