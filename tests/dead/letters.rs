//! Dead letters as the worker leaves them, put into dead queues by the tests.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use lapin::{BasicProperties, types::AMQPValue};
use serde_json::{Value, json};

use testkit::{
    Rig,
    amqp::{Received, headers, with_id},
    events::{email, event_with},
    program::Finished,
};

/// The properties of a letter of `class` that died `minutes` ago.
pub(super) fn dead(id: &str, class: &str, minutes: i64) -> BasicProperties {
    let died = (Timestamp::now() - SignedDuration::from_mins(minutes)).to_string();
    let mut table = headers(&[
        ("x-dead-class", class),
        ("x-dead-reason", "Instant Connect responded with 503 (attempt 8 of 8)"),
        ("x-dead-at", &died),
        ("x-first-failed-at", &died),
        ("x-retry-reason", "unavailable"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("x-mine", "flowsecret"),
    ]);
    table.insert("x-attempts".into(), AMQPValue::LongLongInt(8));
    with_id(id)
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_correlation_id("flowsecret-correlation".into())
        .with_headers(table)
}

/// The body of start event number `n`, whose links expire in an hour.
pub(super) fn body(n: usize) -> Vec<u8> {
    let end = (Timestamp::now() + SignedDuration::from_hours(1)).to_string();
    event_with(n, &json!({"expiresAt": end})).to_string().into_bytes()
}

/// The body of a host link for event number `n`.
pub(super) fn host_link(n: usize) -> Vec<u8> {
    let end = (Timestamp::now() + SignedDuration::from_hours(1)).to_string();
    json!({
        "eventId": format!("event-{n}"), "sessionId": format!("visit-{n}"), "expert": {"email": email(n)},
        "guests": ["Guadalupe"], "url": "https://instant.webex.com/visit/x", "expiresAt": end,
    })
    .to_string()
    .into_bytes()
}

/// Publishes `letters` to the dead queue of `queue`.
pub(super) async fn put(rig: &Rig, queue: &str, letters: Vec<(BasicProperties, Vec<u8>)>) {
    rig.amqp.publish_all("", &rig.name(&format!("{queue}.dead")), letters).await;
}

/// A rig with declared queues.
pub(super) async fn rig() -> Rig {
    let rig = Rig::new().await;
    assert_eq!(rig.command(&["topology", "--declare"], &[]).await.status, Some(0));
    rig
}

/// Runs `dead` with these arguments, which must succeed.
pub(super) async fn tool(rig: &Rig, arguments: &[&str]) -> Finished {
    let finished = rig.command(&[&["dead"], arguments].concat(), &[]).await;
    assert_eq!(finished.status, Some(0), "{arguments:?}: {finished:?}");
    finished
}

/// The messages of a queue as they would be delivered, without the broker's delivery count; sorted.
pub(super) async fn contents(rig: &Rig, queue: &str) -> Vec<String> {
    let whole = |message: Received| {
        let mut headers = message.headers();
        headers.remove("x-delivery-count");
        let bare = message.properties.with_headers(BTreeMap::new().into());
        format!("{headers:?} {bare:?} {:?}", String::from_utf8_lossy(&message.body))
    };
    let mut all: Vec<_> = rig.amqp.read_all(&rig.name(queue)).await.into_iter().map(whole).collect();
    all.sort();
    all
}

/// The ids of the messages in a queue; sorted.
pub(super) async fn ids(rig: &Rig, queue: &str) -> Vec<String> {
    let mut ids: Vec<_> = rig.amqp.read_all(&rig.name(queue)).await.iter().map(Received::id).collect();
    ids.sort();
    ids
}

/// The number `name` of `queue` in a JSON report.
pub(super) fn count(report: &Value, queue: &str, name: &str) -> u64 {
    let queues = report["queues"].as_array().unwrap();
    queues.iter().find(|one| one["queue"] == queue).unwrap()[name].as_u64().unwrap()
}
