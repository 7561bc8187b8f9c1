//! Message properties and headers: in as text, out as the contract has them.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};

use crate::{
    contract::{header, link::Outgoing, message::Message, trace::TraceContext},
    outcome::{Cause, Death},
};

/// The property `app_id` of everything that goes out.
pub const APP_ID: &str = "instant-connect-worker";
const PERSISTENT: u8 = 2;
const JSON: &str = "application/json";

/// `text` as an AMQP short string, cut to its 255 bytes.
#[must_use]
pub fn short(text: &str) -> ShortString {
    let end = (0..=text.len().min(255)).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    ShortString::from(&text[..end])
}

/// The message of these `properties` and this `body`.
#[must_use]
pub fn message(properties: &BasicProperties, body: Vec<u8>) -> Message {
    let text = |property: &Option<ShortString>| property.as_ref().map(|text| text.as_str().to_owned());
    let headers = properties.headers().as_ref().map(text_headers).unwrap_or_default();
    Message {
        content_type: text(properties.content_type()),
        message_id: text(properties.message_id()),
        correlation_id: text(properties.correlation_id()),
        published_at: properties
            .timestamp()
            .and_then(|seconds| Timestamp::from_second(i64::try_from(seconds).ok()?).ok()),
        headers,
        body,
    }
}

/// Headers that are text or whole numbers.
fn text_headers(table: &FieldTable) -> BTreeMap<String, String> {
    let text = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok().map(str::to_owned),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        AMQPValue::LongLongInt(number) => Some(number.to_string()),
        AMQPValue::LongInt(number) => Some(number.to_string()),
        AMQPValue::LongUInt(number) => Some(number.to_string()),
        _ => None,
    };
    table.inner().iter().filter_map(|(name, value)| Some((name.as_str().to_owned(), text(value)?))).collect()
}

/// The properties of a link message, at its place in the trace.
#[must_use]
pub fn link(outgoing: &Outgoing, trace: &TraceContext, now: Timestamp) -> BasicProperties {
    let message_id = outgoing.message_id.to_string();
    let mut headers = FieldTable::default();
    set_trace(&mut headers, trace);
    set_text(&mut headers, header::DEDUPLICATION, &message_id);
    BasicProperties::default()
        .with_content_type(JSON.into())
        .with_delivery_mode(PERSISTENT)
        .with_type(outgoing.kind.into())
        .with_message_id(short(&message_id))
        .with_correlation_id(short(outgoing.correlation_id.reveal()))
        .with_timestamp(seconds(now))
        .with_app_id(APP_ID.into())
        .with_headers(headers)
}

/// The properties of a start event that this program itself emits.
#[must_use]
pub fn start_event(message_id: &str, trace: &TraceContext, now: Timestamp) -> BasicProperties {
    let mut headers = FieldTable::default();
    set_trace(&mut headers, trace);
    BasicProperties::default()
        .with_content_type(JSON.into())
        .with_delivery_mode(PERSISTENT)
        .with_message_id(short(message_id))
        .with_timestamp(seconds(now))
        .with_app_id(APP_ID.into())
        .with_headers(headers)
}

/// The properties of a dead letter: those of the message as it came, and why it died.
#[must_use]
pub fn dead(
    original: &BasicProperties,
    message: &Message,
    death: &Death,
    trace: &TraceContext,
    now: Timestamp,
) -> BasicProperties {
    let mut headers = copied_headers(original);
    set_text(&mut headers, header::DEAD_CLASS, death.class.as_str());
    set_text(&mut headers, header::DEAD_REASON, &death.reason);
    set_text(&mut headers, header::DEAD_AT, &now.to_string());
    headers.insert(
        header::ATTEMPTS.into(),
        AMQPValue::LongLongInt(i64::from(message.attempts().saturating_add(1))),
    );
    set_text(&mut headers, header::FIRST_FAILED_AT, &message.first_failed_at().unwrap_or(now).to_string());
    set_trace(&mut headers, trace);
    copied(original).with_headers(headers)
}

/// What a copy that waits in a hold queue says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// What kind of failure it was.
    pub cause: Cause,
    /// Attempts counted so far.
    pub attempts: u32,
    /// How long it waits between counted attempts, this wait included if it is one.
    pub waited: Duration,
    /// When the message failed first.
    pub first_failed_at: Timestamp,
    /// When it may be tried again.
    pub not_before: Timestamp,
}

/// The properties of a copy that waits in a hold queue: those of the message as it came, and what the next attempt
/// must know.
#[must_use]
pub fn held(original: &BasicProperties, trace: &TraceContext, held: &Held) -> BasicProperties {
    let mut headers = copied_headers(original);
    headers.insert(header::ATTEMPTS.into(), AMQPValue::LongLongInt(held.attempts.into()));
    set_text(&mut headers, header::RETRY_REASON, held.cause.as_str());
    let waited = i64::try_from(held.waited.as_millis()).unwrap_or(i64::MAX);
    headers.insert(header::WAITED.into(), AMQPValue::LongLongInt(waited));
    set_text(&mut headers, header::FIRST_FAILED_AT, &held.first_failed_at.to_string());
    set_text(&mut headers, header::NOT_BEFORE, &held.not_before.to_string());
    set_trace(&mut headers, trace);
    copied(original).with_headers(headers)
}

/// The properties of a copy that is held once more, as they are but for the place in the trace.
#[must_use]
pub fn held_again(original: &BasicProperties, trace: &TraceContext) -> BasicProperties {
    let mut headers = copied_headers(original);
    set_trace(&mut headers, trace);
    copied(original).with_headers(headers)
}

/// The properties of a dead letter on its way back into its queue, for the `replays`th time: as new, but for its first failure
/// (a session's end may be counted from it). `of` names the letter.
#[must_use]
pub fn replayed(original: &BasicProperties, of: &str, replays: u32, now: Timestamp) -> BasicProperties {
    const OVER: [&str; 7] = [
        header::DEAD_CLASS,
        header::DEAD_REASON,
        header::DEAD_AT,
        header::ATTEMPTS,
        header::WAITED,
        header::RETRY_REASON,
        header::NOT_BEFORE,
    ];
    let kept = copied_headers(original).inner().clone().into_iter();
    let mut headers =
        FieldTable::from(kept.filter(|(name, _)| !OVER.contains(&name.as_str())).collect::<BTreeMap<_, _>>());
    headers.insert(header::REPLAYS.into(), AMQPValue::LongLongInt(replays.into()));
    set_text(&mut headers, header::REPLAYED_AT, &now.to_string());
    set_text(&mut headers, header::REPLAY_OF, of);
    // The trace goes on where the letter left it.
    let original_headers = original.headers().iter().flat_map(FieldTable::inner);
    for (name, value) in original_headers {
        if [header::TRACEPARENT, header::TRACESTATE].contains(&name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    copied(original).with_headers(headers)
}

/// All properties that a copy may carry. Not `expiration`: it would end a message that must not get lost. Not `user_id`:
/// the broker refuses one that is not the publishing connection's. And `reply_to` only where it is no direct reply,
/// which the broker refuses from anybody but the requester.
fn copied(original: &BasicProperties) -> BasicProperties {
    let mut copy = BasicProperties::default().with_delivery_mode(PERSISTENT);
    macro_rules! copy {
        ($($get:ident => $set:ident),+) => {$(
            if let Some(value) = original.$get().clone() {
                copy = copy.$set(value);
            }
        )+};
    }
    copy!(
        content_type => with_content_type, content_encoding => with_content_encoding, priority => with_priority,
        correlation_id => with_correlation_id, message_id => with_message_id,
        timestamp => with_timestamp, kind => with_type, app_id => with_app_id, cluster_id => with_cluster_id
    );
    match original.reply_to() {
        Some(reply_to) if !reply_to.as_str().starts_with("amq.rabbitmq.reply-to") => {
            copy.with_reply_to(reply_to.clone())
        }
        _ => copy,
    }
}

/// Most bytes of foreign headers that a copy carries. With our own on top, the whole must stay within one AMQP frame
/// (128 KiB unless negotiated smaller), or the broker closes the connection.
const COPIED_BYTES_MAX: usize = 64 * 1024;

/// The number of headers that a copy had to leave behind.
const HEADERS_DROPPED: &str = "x-headers-dropped";

/// All headers but those that would send a copy to further queues (RabbitMQ's sender-selected distribution), the count of
/// deliveries, which is the original's, and the place in the trace, which changes; the smallest first, while they fit.
fn copied_headers(original: &BasicProperties) -> FieldTable {
    let foreign = original.headers().iter().flat_map(FieldTable::inner);
    let mut foreign: Vec<_> = foreign
        .filter(|(name, _)| {
            let replaced = [header::DELIVERY_COUNT, header::TRACEPARENT, header::TRACESTATE];
            !matches!(name.as_str(), "CC" | "BCC") && !replaced.contains(&name.as_str())
        })
        .map(|(name, value)| (name.as_str().len() + bytes(value), name, value))
        .collect();
    foreign.sort_by_key(|(bytes, name, _)| (*bytes, name.as_str()));
    let mut headers = FieldTable::default();
    let (mut used, mut dropped) = (0, 0);
    for (bytes, name, value) in foreign {
        used += bytes;
        if used <= COPIED_BYTES_MAX {
            headers.insert(name.clone(), value.clone());
        } else {
            dropped += 1;
        }
    }
    if dropped > 0 {
        headers.insert(HEADERS_DROPPED.into(), AMQPValue::LongLongInt(dropped));
    }
    headers
}

/// What `value` takes on the wire, or a little more.
fn bytes(value: &AMQPValue) -> usize {
    16 + match value {
        AMQPValue::LongString(text) => text.len(),
        AMQPValue::ShortString(text) => text.as_str().len(),
        AMQPValue::ByteArray(array) => array.len(),
        AMQPValue::FieldArray(array) => array.as_slice().iter().map(bytes).sum(),
        AMQPValue::FieldTable(table) => {
            table.inner().iter().map(|(name, value)| name.as_str().len() + bytes(value)).sum()
        }
        _ => 0,
    }
}

fn set_text(headers: &mut FieldTable, name: &'static str, value: &str) {
    headers.insert(name.into(), AMQPValue::LongString(value.into()));
}

fn set_trace(headers: &mut FieldTable, trace: &TraceContext) {
    set_text(headers, header::TRACEPARENT, &trace.traceparent());
    if let Some(state) = trace.tracestate() {
        set_text(headers, header::TRACESTATE, state);
    }
}

fn seconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_second()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Class;

    #[test]
    fn short_strings_are_cut_between_characters() {
        assert_eq!(short(&"é".repeat(200)).as_str().len(), 254);
        assert_eq!(short("a").as_str(), "a");
    }

    #[test]
    fn what_a_copy_says_is_what_the_next_attempt_reads() {
        let at = Timestamp::UNIX_EPOCH;
        let waited = Duration::from_millis(1500);
        let copy = Held { cause: Cause::Busy, attempts: 3, waited, first_failed_at: at, not_before: at };
        let trace = TraceContext::of(&BTreeMap::new());
        let held = held(&BasicProperties::default(), &trace, &copy);
        let read = message(&held, Vec::new());
        assert_eq!((read.attempts(), read.waited()), (3, waited));
        assert_eq!((read.first_failed_at(), read.not_before()), (Some(at), Some(at)));
        // Replayed, it is as new.
        let read = message(&replayed(&held, "letter", 1, at), Vec::new());
        assert_eq!((read.attempts(), read.waited(), read.not_before()), (0, Duration::ZERO, None));
    }

    fn dead_with_header_of(bytes: usize) -> BasicProperties {
        let mut headers = FieldTable::default();
        headers.insert("big".into(), AMQPValue::LongString("x".repeat(bytes).into()));
        headers.insert("small".into(), AMQPValue::LongString("x".into()));
        let original = BasicProperties::default().with_headers(headers);
        let death = Death::new(Class::Invalid, "why");
        dead(
            &original,
            &Message::default(),
            &death,
            &TraceContext::of(&BTreeMap::new()),
            Timestamp::UNIX_EPOCH,
        )
    }

    #[test]
    fn a_dead_letter_keeps_its_properties_but_those_that_would_harm_it() {
        let mut headers = FieldTable::default();
        headers.insert("mine".into(), AMQPValue::LongInt(7));
        headers.insert("CC".into(), AMQPValue::LongString("elsewhere".into()));
        let original = BasicProperties::default()
            .with_message_id("m".into())
            .with_expiration("1000".into())
            .with_user_id("other".into())
            .with_delivery_mode(1)
            .with_headers(headers);
        let death = Death::new(Class::Invalid, "`guests`: expected at least one guest");
        let trace = TraceContext::of(&BTreeMap::new());
        let dead = dead(&original, &Message::default(), &death, &trace, Timestamp::UNIX_EPOCH);
        assert_eq!(dead.message_id().as_ref().unwrap().as_str(), "m");
        assert_eq!((dead.expiration(), dead.user_id(), dead.delivery_mode()), (&None, &None, &Some(2)));
        let big = dead_with_header_of(100_000);
        assert!(bytes(&AMQPValue::FieldTable(big.headers().clone().unwrap())) < COPIED_BYTES_MAX);
        assert_eq!(text_headers(big.headers().as_ref().unwrap())[HEADERS_DROPPED], "1");
        let text = text_headers(dead.headers().as_ref().unwrap());
        assert_eq!(text["mine"], "7");
        assert!(!text.contains_key("CC"));
        assert_eq!(text[header::DEAD_CLASS], "invalid");
        assert_eq!(text[header::ATTEMPTS], "1");
        assert_eq!(text[header::DEAD_AT], "1970-01-01T00:00:00Z");
        assert!(text.contains_key(header::TRACEPARENT));
    }
}
