//! Tests of the properties of published messages.

use super::*;
use crate::{outcome::Class, random::Random};

#[test]
fn short_strings_are_cut_between_characters() {
    assert_eq!(short(&"é".repeat(200)).as_str().len(), 254);
    assert_eq!(short("a").as_str(), "a");
}

/// The message with these properties, taken from the queue `q`.
fn read(properties: &BasicProperties) -> Message {
    message(properties, Vec::new(), Taken::Work { queue: "q", redelivered: false })
}

#[test]
fn empty_id_is_none() {
    let read = |id: &str| read(&BasicProperties::default().with_message_id(id.into())).message_id;
    assert_eq!((read(""), read("m")), (None, Some("m".to_owned())));
}

#[test]
fn retry_headers_of_a_copy_are_read_by_the_next_attempt() {
    let at = Timestamp::UNIX_EPOCH;
    let waited = Duration::from_millis(1500);
    let copy = RetryHeaders { cause: Cause::Busy, attempts: 3, waited, first_failed_at: at, not_before: at };
    let (trace, came) = (TraceContext::begin(&Random::system()), BasicProperties::default());
    let delayed = delayed(&came, &Message::default(), "q.hold.1000", &trace, &copy);
    let message = read(&delayed);
    assert_eq!((message.attempts(), message.waited()), (3, waited));
    assert_eq!((message.first_failed_at(), message.not_before()), (Some(at), Some(at)));
    assert_eq!(delayed_for(&delayed, "q"), Some(Duration::from_secs(1)));
    // Delayed once more it is unchanged, and replayed it counts as new.
    let again = read(&delayed_again(&delayed, &message, "q.hold.5000", &trace));
    assert_eq!((again.attempts(), again.waited(), again.not_before()), (3, waited, Some(at)));
    let new = read(&replayed(&delayed, &message, "q.replay", "letter", 1, at));
    assert_eq!((new.attempts(), new.waited(), new.not_before()), (0, Duration::ZERO, None));
    assert_eq!((new.first_failed_at(), new.header(header::REPLAYS)), (Some(at), Some("1")));
    // The headers about a replay are kept.
    let replayed = read(&super::delayed(&came, &new, "q.hold.1000", &trace, &copy));
    assert_eq!(replayed.header(header::REPLAY_OF), Some("letter"));
}

#[test]
fn replay_is_later_than_the_one_before_whatever_the_clock_says() {
    let (first, second) = (Timestamp::UNIX_EPOCH, SignedDuration::from_secs(1));
    let came = BasicProperties::default();
    let replay = |message: &Message, at| read(&replayed(&came, message, "q.replay", "letter", 1, at));
    let once = replay(&Message::default(), first);
    assert_eq!(once.replayed_at(), Some(first));
    assert_eq!(replay(&once, first + second).replayed_at(), Some(first + second));
    for behind in [first, first - second] {
        assert_eq!(replay(&once, behind).replayed_at(), Some(first + SignedDuration::from_millis(1)));
    }
}

#[test]
fn foreign_headers_with_our_names_are_ignored_and_not_copied() {
    let mut headers = FieldTable::default();
    for name in [header::ATTEMPTS, header::WAITED, header::REPLAYS, header::DELIVERY_COUNT] {
        headers.insert(name.into(), AMQPValue::LongLongInt(99));
    }
    for name in [header::FIRST_FAILED_AT, header::NOT_BEFORE, header::RETRY_REASON, header::REPLAY_OF] {
        set_text(&mut headers, name, "2020-01-01T00:00:00Z");
    }
    let original = BasicProperties::default().with_headers(headers);
    let message = read(&original);
    assert!(message.headers.is_empty(), "{:?}", message.headers);
    let death = Death::new(Class::Invalid, "why");
    let (trace, at) = (TraceContext::begin(&Random::system()), Timestamp::UNIX_EPOCH);
    let dead = dead(&original, &message, &death, &trace, at);
    let names: Vec<_> = dead.headers().as_ref().unwrap().inner().keys().map(ShortString::as_str).collect();
    let ours =
        ["traceparent", "x-attempts", "x-dead-at", "x-dead-class", "x-dead-reason", "x-first-failed-at"];
    assert_eq!(names, ours);
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
        &TraceContext::begin(&Random::system()),
        Timestamp::UNIX_EPOCH,
    )
}

#[test]
fn dead_letter_keeps_all_properties_but_harmful_ones() {
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
    let trace = TraceContext::begin(&Random::system());
    let dead = dead(&original, &Message::default(), &death, &trace, Timestamp::UNIX_EPOCH);
    assert_eq!(dead.message_id().as_ref().unwrap().as_str(), "m");
    assert_eq!((dead.expiration(), dead.user_id(), dead.delivery_mode()), (&None, &None, &Some(2)));
    let big = dead_with_header_of(100_000);
    let table = AMQPValue::FieldTable(big.headers().clone().unwrap());
    assert!(headers::bytes(&table).unwrap() < headers::COPIED_BYTES_MAX);
    let read =
        |properties| message(properties, Vec::new(), Taken::Dead { queue: "q", redelivered: false }).headers;
    assert_eq!(read(&big)[headers::HEADERS_DROPPED], "1");
    let text = read(&dead);
    assert_eq!(text["mine"], "7");
    assert!(!text.contains_key("CC"));
    assert_eq!(text[header::DEAD_CLASS], "invalid");
    assert_eq!(text[header::ATTEMPTS], "1");
    assert_eq!(text[header::DEAD_AT], "1970-01-01T00:00:00Z");
    assert!(text.contains_key(header::TRACEPARENT));
}
