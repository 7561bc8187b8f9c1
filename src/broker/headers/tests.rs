//! Tests of the headers that a copy carries and that are trusted.

use lapin::types::ShortString;

use super::*;

const QUEUE: &str = "p.sessions";
const WORK: Taken<'_> = Taken::Work { queue: QUEUE, redelivered: false };
const DEAD: Taken<'_> = Taken::Dead { queue: QUEUE, redelivered: false };

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn table<const N: usize>(pairs: [(&'static str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert(name.into(), value);
    }
    table
}

fn deaths(queues: &[&str]) -> AMQPValue {
    let entry = |queue: &&str| AMQPValue::FieldTable(table([("queue", text(queue))]));
    AMQPValue::FieldArray(queues.iter().map(entry).collect::<Vec<_>>().into())
}

fn attempts(taken: Taken<'_>, copied_to: Option<&str>, died_in: &[&str]) -> bool {
    let mut headers = table([(header::ATTEMPTS, AMQPValue::LongLongInt(3))]);
    if let Some(name) = copied_to {
        headers.insert(header::COPIED_TO.into(), text(name));
    }
    if !died_in.is_empty() {
        headers.insert("x-death".into(), deaths(died_in));
    }
    texts(&headers, taken).contains_key(header::ATTEMPTS)
}

#[test]
fn own_headers_are_trusted_only_on_our_copies() {
    let (hold, replay) = ("p.sessions.hold.1000", "p.sessions.replay");
    let work = |copied_to, died_in: &[&str]| attempts(WORK, copied_to, died_in);
    assert!(work(Some(hold), &[hold]) && work(Some(replay), &[replay]));
    assert!(work(Some(hold), &[]), "moved from the delay queue by hand");
    assert!(work(None, &[hold]), "delayed by a version that wrote no mark");
    assert!(!work(None, &[]), "foreign");
    for other in ["p.hosts.hold.1000", "p.sessions.hold.", "p.sessions.hold.x", "p.sessions", "hold.1000"] {
        assert!(!work(Some(other), &[]) && !work(None, &[other]), "{other}");
    }
    assert!(!work(Some(hold), &[QUEUE, hold]), "it was dead since and was moved back by hand");
    assert!(!work(None, &["other", hold]));
}

#[test]
fn own_headers_of_a_dead_letter_are_trusted_if_we_wrote_them() {
    let dead = |copied_to, died_in: &[&str]| attempts(DEAD, copied_to, died_in);
    assert!(!dead(None, &[]) && !dead(None, &[QUEUE]));
    assert!(dead(Some("p.sessions.hold.1000"), &[QUEUE]), "delayed by us before the broker dead-lettered it");
    let letter = table([(header::DEAD_AT, text("t")), (header::DEAD_CLASS, text("invalid"))]);
    assert!(texts(&letter, DEAD).contains_key(header::DEAD_CLASS));
    assert!(!texts(&letter, WORK).contains_key(header::DEAD_CLASS));
}

#[test]
fn delivery_count_is_trusted_only_on_a_redelivery() {
    let headers = table([(header::DELIVERY_COUNT, AMQPValue::LongLongInt(99))]);
    assert!(!texts(&headers, WORK).contains_key(header::DELIVERY_COUNT));
    let again = Taken::Work { queue: QUEUE, redelivered: true };
    assert_eq!(texts(&headers, again)[header::DELIVERY_COUNT], "99");
}

#[test]
fn whole_numbers_of_every_width_and_text_bytes_are_read() {
    let values = [
        AMQPValue::ShortShortInt(-7),
        AMQPValue::ShortShortUInt(7),
        AMQPValue::ShortInt(-7),
        AMQPValue::ShortUInt(7),
        AMQPValue::LongInt(-7),
        AMQPValue::LongUInt(7),
        AMQPValue::LongLongInt(-7),
        AMQPValue::ByteArray(b"7".as_slice().into()),
    ];
    for value in values {
        let read = super::text(&value).unwrap();
        assert!(read == "7" || read == "-7", "{value:?}");
    }
    assert_eq!(super::text(&AMQPValue::ByteArray([0xff].as_slice().into())), None);
    let time = |seconds| super::text(&AMQPValue::Timestamp(seconds));
    assert_eq!(time(1_795_255_200).as_deref(), Some("2026-11-21T10:00:00Z"));
    assert_eq!((time(0), time(u64::MAX)), (None, None));
}

#[test]
fn copy_drops_headers_that_brokers_act_on_and_our_own_names() {
    let mut headers = table([("x-death", deaths(&[QUEUE])), ("x-shovelled", AMQPValue::Boolean(true))]);
    for name in ["CC", "BCC", "x-first-death-queue", "x-last-death-reason", "x-opt-delivery-time"] {
        headers.insert(name.into(), text("x"));
    }
    for name in OWN.iter().chain(&["x-delivery-count", "x-acquired-count", "mine", "x-match"]) {
        headers.insert((*name).into(), text("9"));
    }
    let original = BasicProperties::default().with_headers(headers);
    let copy = copied(&original, &Message::default());
    let names: Vec<_> = copy.inner().keys().map(ShortString::as_str).collect();
    assert_eq!(names, ["mine", "x-match", "x-shovelled"]);
}

#[test]
fn every_fate_is_reachable() {
    // The first match counts, so no entry may hide another.
    for (n, (name, ..)) in FATES.iter().enumerate() {
        let first = FATES.iter().position(|(known, ..)| match known.strip_suffix('*') {
            Some(begin) => name.starts_with(begin),
            None => name == known,
        });
        assert_eq!(first, Some(n), "{name}");
    }
}

#[test]
fn header_nested_too_deeply_is_dropped_and_counted() {
    let nested =
        |depth: usize| (0..depth).fold(AMQPValue::Void, |value, _| AMQPValue::FieldArray(vec![value].into()));
    assert!(bytes(&nested(DEPTH_MAX)).is_some() && bytes(&nested(DEPTH_MAX + 1)).is_none());
    let headers = table([("deep", nested(100)), ("flat", nested(1))]);
    let original = BasicProperties::default().with_headers(headers);
    let copy = copied(&original, &Message::default());
    assert_eq!(copy.inner().keys().map(ShortString::as_str).collect::<Vec<_>>(), ["flat", HEADERS_DROPPED]);
    assert_eq!(copy.inner()[HEADERS_DROPPED], AMQPValue::LongLongInt(1));
}
