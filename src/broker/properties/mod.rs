//! Message properties and headers: received ones as text, sent ones as the contract says.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};

use super::headers::{self, Taken};
use crate::{
    contract::{header, message::Message, outgoing::Outgoing, trace::TraceContext},
    outcome::{Cause, Death},
};

/// The property `app_id` of every published message.
pub const APP_ID: &str = "instant-connect-worker";
const PERSISTENT: u8 = 2;
const JSON: &str = "application/json";

/// `text` as an AMQP short string, cut to 255 bytes.
#[must_use]
pub fn short(text: &str) -> ShortString {
    let end = (0..=text.len().min(255)).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    ShortString::from(&text[..end])
}

/// The message with these `properties` and this `body`, which was `taken` from that queue.
#[must_use]
pub fn message(properties: &BasicProperties, body: Vec<u8>, taken: Taken<'_>) -> Message {
    let text = |property: &Option<ShortString>| property.as_ref().map(|text| text.as_str().to_owned());
    let headers = properties.headers().as_ref().map(|table| headers::texts(table, taken)).unwrap_or_default();
    Message {
        content_type: text(properties.content_type()),
        content_encoding: text(properties.content_encoding()),
        // An empty id counts as none, because it would be the same for all messages.
        message_id: text(properties.message_id()).filter(|id| !id.is_empty()),
        correlation_id: text(properties.correlation_id()),
        published_at: properties.timestamp().and_then(headers::time),
        headers,
        body,
    }
}

/// The properties of a stage's message with this trace context.
#[must_use]
pub fn outgoing(outgoing: &Outgoing, trace: &TraceContext, now: Timestamp) -> BasicProperties {
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

/// The properties of a start event that this program emits.
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

/// The properties of a start event that came as `message` in another way than from a queue. Its headers other than the
/// trace context are kept.
#[must_use]
pub fn received_event(
    message: &Message,
    message_id: &str,
    trace: &TraceContext,
    now: Timestamp,
) -> BasicProperties {
    let content_type = message.content_type.as_deref().unwrap_or(JSON);
    let mut headers = FieldTable::default();
    for (name, value) in &message.headers {
        headers.insert(short(name), AMQPValue::LongString(value.as_str().into()));
    }
    set_trace(&mut headers, trace);
    start_event(message_id, trace, now).with_content_type(short(content_type)).with_headers(headers)
}

/// The properties of a dead letter: those of the message as received, plus the reason of its death.
#[must_use]
pub fn dead(
    original: &BasicProperties,
    message: &Message,
    death: &Death,
    trace: &TraceContext,
    now: Timestamp,
) -> BasicProperties {
    let mut headers = headers::copied(original, message);
    carry(&mut headers, message, &[header::WAITED, header::RETRY_REASON]);
    carry(&mut headers, message, &REPLAYED);
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

/// The state that a copy in a delay queue carries for the next attempt.
#[derive(Clone, Copy, Debug)]
pub struct RetryHeaders {
    /// The cause of the failure.
    pub cause: Cause,
    pub attempts: u32,
    /// Total wait between counted attempts, including this wait if it counts.
    pub waited: Duration,
    /// Time of the first failure.
    pub first_failed_at: Timestamp,
    /// Earliest time of the next attempt.
    pub not_before: Timestamp,
}

/// The delay of the delay queue of `queue` from which a message returned; `None` if it came from elsewhere.
pub(super) fn delayed_for(properties: &BasicProperties, queue: &str) -> Option<Duration> {
    headers::delayed_for(properties.headers().as_ref()?, queue).map(Duration::from_millis)
}

/// Headers about an earlier replay.
const REPLAYED: [&str; 3] = [header::REPLAYS, header::REPLAYED_AT, header::REPLAY_OF];

/// The properties of a copy of `message` for the delay queue `queue`: those of the message as received, plus the
/// state for the next attempt.
#[must_use]
pub fn delayed(
    original: &BasicProperties,
    message: &Message,
    queue: &str,
    trace: &TraceContext,
    retry: &RetryHeaders,
) -> BasicProperties {
    let mut headers = headers::copied(original, message);
    carry(&mut headers, message, &REPLAYED);
    set_text(&mut headers, header::COPIED_TO, queue);
    headers.insert(header::ATTEMPTS.into(), AMQPValue::LongLongInt(retry.attempts.into()));
    set_text(&mut headers, header::RETRY_REASON, retry.cause.as_str());
    let waited = i64::try_from(retry.waited.as_millis()).unwrap_or(i64::MAX);
    headers.insert(header::WAITED.into(), AMQPValue::LongLongInt(waited));
    set_text(&mut headers, header::FIRST_FAILED_AT, &retry.first_failed_at.to_string());
    set_text(&mut headers, header::NOT_BEFORE, &retry.not_before.to_string());
    set_trace(&mut headers, trace);
    copied(original).with_headers(headers)
}

/// The properties of a copy of `message` that is delayed once more, in the delay queue `queue`. Only the queue and
/// the trace context change.
#[must_use]
pub fn delayed_again(
    original: &BasicProperties,
    message: &Message,
    queue: &str,
    trace: &TraceContext,
) -> BasicProperties {
    let mut headers = headers::copied(original, message);
    carry(&mut headers, message, &REPLAYED);
    let state =
        [header::ATTEMPTS, header::RETRY_REASON, header::WAITED, header::FIRST_FAILED_AT, header::NOT_BEFORE];
    carry(&mut headers, message, &state);
    set_text(&mut headers, header::COPIED_TO, queue);
    set_trace(&mut headers, trace);
    copied(original).with_headers(headers)
}

/// The properties of a dead letter that returns to its queue through the replay queue `queue`, for the `replays`th
/// time. It counts as new except for its first failure, because the end of a session may depend on that time. `of`
/// names the letter. The time of the replay is after that of an earlier one, also if this clock is behind: the stages count sends from
/// the last replay.
#[must_use]
pub fn replayed(
    original: &BasicProperties,
    message: &Message,
    queue: &str,
    of: &str,
    replays: u32,
    now: Timestamp,
) -> BasicProperties {
    let earlier = message.replayed_at().and_then(|at| at.checked_add(SignedDuration::from_millis(1)).ok());
    let at = earlier.map_or(now, |earlier| earlier.max(now));
    let mut headers = headers::copied(original, message);
    // The trace continues after the letter's span.
    carry(&mut headers, message, &[header::FIRST_FAILED_AT, header::TRACEPARENT, header::TRACESTATE]);
    set_text(&mut headers, header::COPIED_TO, queue);
    headers.insert(header::REPLAYS.into(), AMQPValue::LongLongInt(replays.into()));
    set_text(&mut headers, header::REPLAYED_AT, &at.to_string());
    set_text(&mut headers, header::REPLAY_OF, of);
    copied(original).with_headers(headers)
}

/// Copies these headers from `message`. Headers with our own names are present only if this program wrote them.
fn carry(headers: &mut FieldTable, message: &Message, names: &[&'static str]) {
    for name in names {
        let Some(text) = message.header(name) else { continue };
        if let Ok(number) = text.parse() {
            headers.insert((*name).into(), AMQPValue::LongLongInt(number));
        } else if text.len() <= OWN_BYTES_MAX {
            // No header of ours is longer.
            set_text(headers, name, text);
        }
    }
}

/// Size limit of a header of our own that a copy takes over.
const OWN_BYTES_MAX: usize = 1024;

/// All properties that a copy may carry. `expiration` is left out because it would end a message that must not get
/// lost. `user_id` is left out because the broker refuses one that is not the publishing connection's. `reply_to` is
/// left out if it is a direct reply, which the broker accepts from the requester only.
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
mod tests;
