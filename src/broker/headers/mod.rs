//! Headers: the ones that a copy carries, and the ones with our names that this program wrote.
//!
//! A copy is what this program publishes of a message into a delay queue, a dead queue or a replay queue. A header
//! from a publisher, another broker or RabbitMQ itself can change the route of a copy, or prevent its return. `FATES`
//! lists these headers. All others belong to the publisher and are kept.

use std::collections::BTreeMap;

use jiff::Timestamp;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};

use crate::contract::{header, message::Message};

/// The treatment of a header in a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeaderFate {
    /// The copy carries the header.
    Kept,
    /// The copy does not carry the header.
    Dropped,
}
use HeaderFate::{Dropped, Kept};

/// Headers with a meaning for a broker, a plugin or another system, each with its fate and the reason. A name that
/// ends in `*` is a prefix.
const FATES: [(&str, HeaderFate, &str); 22] = [
    ("CC", Dropped, "RabbitMQ routes a copy to these keys as well"),
    ("BCC", Dropped, "as CC"),
    (
        "x-death",
        Dropped,
        "RabbitMQ up to 3.13 reads it: a copy with an old one looks like a cycle and never leaves its delay queue",
    ),
    ("x-first-death-*", Dropped, "as x-death"),
    ("x-last-death-*", Dropped, "as x-death"),
    ("x-delivery-count", Dropped, "belongs to the original; a copy starts at zero"),
    ("x-acquired-count", Dropped, "as x-delivery-count, from RabbitMQ 4.3 on"),
    ("x-delivery-limit", Dropped, "an argument of queues; a broker might apply it to the message"),
    (
        "x-opt-*",
        Dropped,
        "annotations of AMQP 1.0, such as x-opt-delivery-time, which delays a message in RabbitMQ 4.3",
    ),
    ("x-stream-*", Dropped, "position in the stream from which the original was read"),
    ("x-delay", Dropped, "the delayed-message plugin would delay the copy again"),
    ("x-message-ttl", Dropped, "LavinMQ and others expire a message after this time"),
    (
        "x-deduplication-header",
        Kept,
        "a guest's link keeps it through a replay; the plugin ignores quorum queues",
    ),
    ("x-match", Kept, "RabbitMQ reads it in bindings only"),
    ("x-received-from", Kept, "federation of exchanges reads it; copies go to queues by their names"),
    ("x-routed-by", Kept, "informational only"),
    ("x-shovelled*", Kept, "informational: names the shovel that moved the message"),
    ("x-original-*", Kept, "informational: Spring and others record the message's origin"),
    ("x-exception-*", Kept, "informational, as x-original-*"),
    ("x-user-id", Kept, "text: only the property user_id is compared with the connection's user"),
    (header::TRACEPARENT, Dropped, "each copy has its own span"),
    (header::TRACESTATE, Dropped, "as traceparent"),
];

/// Headers with our own names. A copy carries them only as [`crate::broker::properties`] sets them.
const OWN: [&str; 13] = [
    header::DEAD_CLASS,
    header::DEAD_REASON,
    header::DEAD_AT,
    header::ATTEMPTS,
    header::WAITED,
    header::RETRY_REASON,
    header::NOT_BEFORE,
    header::FIRST_FAILED_AT,
    header::REPLAYS,
    header::REPLAYED_AT,
    header::REPLAY_OF,
    header::COPIED_TO,
    HEADERS_DROPPED,
];

/// The number of headers that a copy dropped because of their size or depth.
pub(super) const HEADERS_DROPPED: &str = "x-headers-dropped";
/// Size limit of foreign headers in a copy. Together with our own headers they must fit into one AMQP frame, or the
/// broker closes the connection; see `FRAME_BYTES_MIN` of the connection.
pub(super) const COPIED_BYTES_MAX: usize = 64 * 1024;
/// Depth limit of nested arrays and tables in a copy. lapin reads, writes and drops a value by recursion, and so do
/// many other clients. Our copies must not pass deep nesting on to them.
const DEPTH_MAX: usize = 32;
/// Separates a work queue's name from the delay in the name of a delay queue.
const DELAY_INFIX: &str = ".hold.";

/// The queue from which a message was taken.
#[derive(Clone, Copy, Debug)]
pub enum Taken<'a> {
    /// A work queue.
    Work {
        /// The work queue's name.
        queue: &'a str,
        /// The broker has delivered it before.
        redelivered: bool,
    },
    /// The dead queue of a work queue.
    Dead {
        /// The work queue's name.
        queue: &'a str,
        /// The broker has delivered it before.
        redelivered: bool,
    },
}

impl Taken<'_> {
    const fn redelivered(self) -> bool {
        match self {
            Self::Work { redelivered, .. } | Self::Dead { redelivered, .. } => redelivered,
        }
    }

    /// True if this program wrote the headers with our names. A foreign message may carry the same names, such as
    /// another system's `x-attempts`. So may a dead letter that somebody moved back by hand, which then is a new
    /// event.
    fn has_own_headers(self, headers: &FieldTable) -> bool {
        let last = last_death(headers);
        match self {
            Self::Work { queue, .. } => {
                // The broker took the message out of the work queue after it returned from its delay queue: it was
                // dead since.
                last != Some(queue)
                    && (copied_to(headers, queue) || last.is_some_and(|last| is_ours(last, queue)))
            }
            // The broker dead-lettered the message: its headers are ours if they were ours in the work queue.
            Self::Dead { queue, .. } if last.is_some() => copied_to(headers, queue),
            Self::Dead { queue, .. } => {
                text_of(headers, header::DEAD_AT).is_some() || copied_to(headers, queue)
            }
        }
    }
}

/// True if `name` is a delay queue or the replay queue of the work queue `queue`.
fn is_ours(name: &str, queue: &str) -> bool {
    name.strip_prefix(queue).is_some_and(|rest| rest == super::topology::REPLAY || delay(rest).is_some())
}

/// The delay at the end of a delay queue's name.
fn delay(rest: &str) -> Option<u64> {
    rest.strip_prefix(DELAY_INFIX)?.parse().ok()
}

/// True if this program copied the message to a delay queue or the replay queue of `queue`.
fn copied_to(headers: &FieldTable, queue: &str) -> bool {
    text_of(headers, header::COPIED_TO).is_some_and(|name| is_ours(name, queue))
}

/// The delay, in milliseconds, of the delay queue of `queue` from which a message with these headers returned.
pub(super) fn delayed_for(headers: &FieldTable, queue: &str) -> Option<u64> {
    let last = last_death(headers).or_else(|| text_of(headers, header::COPIED_TO))?;
    delay(last.strip_prefix(queue)?)
}

/// The queue from which the broker last removed the message, for any reason (`x-last-death-queue`, otherwise the
/// first entry of `x-death`).
fn last_death(headers: &FieldTable) -> Option<&str> {
    if let Some(queue) = text_of(headers, "x-last-death-queue") {
        return Some(queue);
    }
    let AMQPValue::FieldArray(deaths) = headers.inner().get("x-death")? else { return None };
    let AMQPValue::FieldTable(latest) = deaths.as_slice().first()? else { return None };
    text_of(latest, "queue")
}

fn text_of<'a>(headers: &'a FieldTable, name: &str) -> Option<&'a str> {
    match headers.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

/// The headers that are text, whole numbers or times. Leaves out headers that only this program or the broker can
/// set, if neither did.
pub(super) fn texts(headers: &FieldTable, taken: Taken<'_>) -> BTreeMap<String, String> {
    let own_headers = taken.has_own_headers(headers);
    let trusted = |name: &str| match name {
        // The broker sets no count at the first delivery, so a count there is the publisher's.
        header::DELIVERY_COUNT => taken.redelivered(),
        name => own_headers || !OWN.contains(&name),
    };
    let all = headers.inner().iter().filter(|(name, _)| trusted(name.as_str()));
    all.filter_map(|(name, value)| Some((name.as_str().to_owned(), text(value)?))).collect()
}

/// The time of an AMQP timestamp; 0 means none.
pub(super) fn time(seconds: u64) -> Option<Timestamp> {
    let seconds = i64::try_from(seconds).ok().filter(|seconds| *seconds > 0)?;
    Timestamp::from_second(seconds).ok()
}

fn text(value: &AMQPValue) -> Option<String> {
    Some(match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok()?.to_owned(),
        AMQPValue::ByteArray(bytes) => std::str::from_utf8(bytes.as_slice()).ok()?.to_owned(),
        AMQPValue::ShortString(text) => text.as_str().to_owned(),
        AMQPValue::ShortShortInt(number) => number.to_string(),
        AMQPValue::ShortShortUInt(number) => number.to_string(),
        AMQPValue::ShortInt(number) => number.to_string(),
        AMQPValue::ShortUInt(number) => number.to_string(),
        AMQPValue::LongInt(number) => number.to_string(),
        AMQPValue::LongUInt(number) => number.to_string(),
        AMQPValue::LongLongInt(number) => number.to_string(),
        // RFC 3339, like the `time` of a CloudEvent in binary mode.
        AMQPValue::Timestamp(seconds) => time(*seconds)?.to_string(),
        _ => return None,
    })
}

/// The foreign headers that a copy carries, the smallest first, while they fit. `message` is the message taken with
/// them.
pub(super) fn copied(original: &BasicProperties, message: &Message) -> FieldTable {
    let foreign = original.headers().iter().flat_map(FieldTable::inner);
    let foreign = foreign.filter(|(name, _)| is_carried(name.as_str()));
    let mut dropped = 0;
    let mut fitting = Vec::new();
    for (name, value) in foreign {
        match bytes(value) {
            Some(bytes) => fitting.push((name.as_str().len() + bytes, name, value)),
            None => dropped += 1,
        }
    }
    fitting.sort_by_key(|(bytes, name, _)| (*bytes, name.as_str()));
    let mut headers = FieldTable::default();
    let mut used = 0;
    for (bytes, name, value) in fitting {
        used += bytes;
        if used <= COPIED_BYTES_MAX {
            headers.insert(name.clone(), value.clone());
        } else {
            dropped += 1;
        }
    }
    // A copy of a copy counts everything that was dropped on the way.
    let before: i64 = message.header(HEADERS_DROPPED).and_then(|text| text.parse().ok()).unwrap_or(0);
    let dropped = before.saturating_add(dropped);
    if dropped > 0 {
        headers.insert(HEADERS_DROPPED.into(), AMQPValue::LongLongInt(dropped));
    }
    headers
}

/// True if a copy carries the header `name`.
fn is_carried(name: &str) -> bool {
    let matches = |known: &str| match known.strip_suffix('*') {
        Some(begin) => name.starts_with(begin),
        None => name == known,
    };
    let fate = FATES.iter().find(|(known, ..)| matches(known)).map_or(Kept, |(_, fate, _)| *fate);
    fate == Kept && !OWN.contains(&name)
}

/// The size of `value` on the wire, or a little more; `None` if it is nested too deeply. It must not recurse, because
/// a publisher chooses the depth.
pub(super) fn bytes(value: &AMQPValue) -> Option<usize> {
    let (mut sum, mut rest) = (0, vec![(value, 0)]);
    while let Some((value, depth)) = rest.pop() {
        if depth > DEPTH_MAX {
            return None;
        }
        sum += 16
            + match value {
                AMQPValue::LongString(text) => text.len(),
                AMQPValue::ShortString(text) => text.as_str().len(),
                AMQPValue::ByteArray(array) => array.len(),
                AMQPValue::FieldArray(array) => {
                    rest.extend(array.as_slice().iter().map(|value| (value, depth + 1)));
                    0
                }
                AMQPValue::FieldTable(table) => {
                    rest.extend(table.inner().values().map(|value| (value, depth + 1)));
                    table.inner().keys().map(|name| name.as_str().len()).sum()
                }
                _ => 0,
            };
    }
    Some(sum)
}

#[cfg(test)]
mod tests;
