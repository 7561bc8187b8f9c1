//! However operators move a message, and whatever the broker wrote into it on the way: it comes back from its hold queue
//! when Webex fails once, and is served. Headers that others left on it say nothing.

use jiff::{SignedDuration, Timestamp};
use lapin::{BasicProperties, types::AMQPValue};
use serde_json::json;

use crate::support::{
    Rig,
    amqp::{headers, with_id},
    event,
    events::event_with,
    poll,
};

/// Each event fails once: that must not look like an outage.
const QUICK: [(&str, &str); 5] = [
    ("breaker.failures", "1000"),
    ("retry.initial", "10ms"),
    ("retry.max", "50ms"),
    ("retry.jitter", "0"),
    ("retry.delays", "10ms,50ms,1s,10m"),
];

/// A rig whose queues are declared, with the settings of the worker that comes later.
async fn declared(rig: Rig) -> Rig {
    assert_eq!(rig.command(&["topology", "--declare"], &QUICK).await.status, Some(0));
    rig
}

async fn until_ready(rig: &Rig, queue: &str, messages: u32) {
    let what = format!("{messages} messages in {queue}");
    poll(&what, async || (rig.amqp.depth(queue).await?.0 == messages).then_some(())).await;
}

/// Starts a worker; Webex fails once for each of these events; each comes back from its hold queue and is served once.
async fn assert_each_is_held_once_and_served(rig: &Rig, events: usize) {
    rig.sandbox.fault(format!("joseencrypt:status=500,times={events}").parse().unwrap());
    let worker = rig.start(&QUICK).await;
    rig.guest_links().await.take(events).await;
    rig.until_experts_have(events as u64).await;
    assert_eq!(rig.sandbox.counts().joseencrypt, 2 * events as u64, "each failed once");
    worker.stop().await;
    rig.assert_all_is_done(&rig.amqp).await;
}

async fn replay(rig: &Rig) {
    let replayed = rig.command(&["dead", "replay", "--yes"], &QUICK).await;
    assert_eq!(replayed.status, Some(0), "{replayed:?}");
}

/// As the management page does with "Get messages" and "Publish message": the properties and headers as they were shown.
async fn get_and_republish(rig: &Rig, from: &str, to: &str) {
    let delivered = rig.amqp.get(from).await;
    rig.amqp.publish("", to, delivered.0, &delivered.1).await;
}

#[tokio::test]
async fn event_that_expired_by_itself_is_replayed_held_and_served() {
    let rig = declared(Rig::new().await).await;
    let events = 33;
    // As many as RabbitMQ forwards at once: one more, and a hold queue that keeps some forwards none at all.
    for n in 0..events {
        let properties = with_id(&format!("event-{n}")).with_expiration("1".into());
        rig.publish_event(properties, &event(n)).await;
    }
    until_ready(&rig, &rig.name("sessions.dead"), 33).await;
    replay(&rig).await;
    assert_each_is_held_once_and_served(&rig, events).await;
}

#[tokio::test]
async fn event_that_a_consumer_rejected_is_held_and_served_after_any_way_back() {
    let rig = declared(Rig::new().await).await;
    let (work, dead) = (rig.name("sessions"), rig.name("sessions.dead"));
    rig.publish_many(1..=2).await;
    for _ in 1..=2 {
        rig.amqp.reject_first(&work).await;
    }
    until_ready(&rig, &dead, 2).await;
    // One by hand, one by the tool.
    get_and_republish(&rig, &dead, &work).await;
    replay(&rig).await;
    assert_each_is_held_once_and_served(&rig, 2).await;
}

#[tokio::test]
async fn event_that_a_policy_let_expire_is_held_and_served_after_any_way_back() {
    let rig = declared(Rig::private().await).await;
    let (work, dead) = (rig.name("sessions"), rig.name("sessions.dead"));
    let pattern = format!("^{}$", work.replace('.', "\\."));
    let policy = ["set_policy", "--apply-to", "queues", "ttl", &pattern, r#"{"message-ttl": 1}"#];
    rig.broker().ctl(&policy).await;
    rig.publish_many(1..=2).await;
    until_ready(&rig, &dead, 2).await;
    rig.broker().ctl(&["clear_policy", "ttl"]).await;
    get_and_republish(&rig, &dead, &work).await;
    replay(&rig).await;
    assert_each_is_held_once_and_served(&rig, 2).await;
}

#[tokio::test]
async fn event_beyond_the_brokers_delivery_limit_is_held_and_served_after_any_way_back() {
    let rig = declared(Rig::private().await).await;
    let (work, dead) = (rig.name("sessions"), rig.name("sessions.dead"));
    let pattern = format!("^{}$", work.replace('.', "\\."));
    let policy = ["set_policy", "--apply-to", "queues", "limit", &pattern, r#"{"delivery-limit": 1}"#];
    rig.broker().ctl(&policy).await;
    rig.publish_many(1..=2).await;
    let crashes = async || {
        rig.amqp.requeue_first(&work).await;
        let (ready, _) = rig.amqp.depth(&dead).await?;
        (ready == 2).then_some(())
    };
    poll("the broker's delivery limit", crashes).await;
    rig.broker().ctl(&["clear_policy", "limit"]).await;
    get_and_republish(&rig, &dead, &work).await;
    replay(&rig).await;
    assert_each_is_held_once_and_served(&rig, 2).await;
}

/// Moves all that is in a queue with RabbitMQ's own shovel.
async fn shovel(rig: &Rig, from: &str, to: &str) {
    let shovel = json!({
        "src-protocol": "amqp091", "src-uri": "amqp://", "src-queue": from, "src-delete-after": "queue-length",
        "dest-protocol": "amqp091", "dest-uri": "amqp://", "dest-queue": to, "dest-add-forward-headers": true,
    });
    rig.broker().ctl(&["set_parameter", "shovel", "move", &shovel.to_string()]).await;
    until_ready(rig, from, 0).await;
}

#[tokio::test]
async fn event_that_a_shovel_moved_between_any_of_our_queues_is_held_and_served() {
    let rig = declared(Rig::private().await).await;
    rig.broker().enable("rabbitmq_shovel").await;
    let (work, dead) = (rig.name("sessions"), rig.name("sessions.dead"));
    let hold = rig.name("sessions.hold.600000");
    // Out of the dead queue, where the broker put it.
    for n in 1..=2 {
        let properties = with_id(&format!("event-{n}")).with_expiration("1".into());
        rig.publish_event(properties, &event(n)).await;
    }
    until_ready(&rig, &dead, 2).await;
    shovel(&rig, &dead, &work).await;
    until_ready(&rig, &work, 2).await;
    // Out of a hold queue, whose time is not over.
    get_and_republish(&rig, &work, &hold).await;
    shovel(&rig, &hold, &work).await;
    until_ready(&rig, &work, 2).await;
    assert_each_is_held_once_and_served(&rig, 2).await;
}

/// Headers as another system, or an older letter of ours, may have left them.
fn left_by_others() -> BasicProperties {
    let long_ago = (Timestamp::now() - SignedDuration::from_hours(24 * 30)).to_string();
    let ahead = (Timestamp::now() + SignedDuration::from_mins(30)).to_string();
    let mut table = headers(&[
        ("x-first-failed-at", &long_ago),
        ("x-not-before", &ahead),
        ("x-retry-reason", "unavailable"),
        ("x-dead-class", "exhausted"),
    ]);
    for name in ["x-attempts", "x-delivery-count", "x-waited-ms", "x-replays"] {
        table.insert(name.into(), AMQPValue::LongLongInt(1_000_000));
    }
    BasicProperties::default().with_headers(table)
}

#[tokio::test]
async fn event_with_headers_of_our_names_that_others_left_is_served_as_new() {
    let rig = declared(Rig::new().await).await;
    let properties = left_by_others().with_message_id("event-1".into());
    // Without an end of its own, a session's end is counted from the first failure.
    rig.publish_event(properties, &event_with(1, &json!({}))).await;
    assert_each_is_held_once_and_served(&rig, 1).await;
}

#[tokio::test]
async fn dead_letter_moved_back_by_hand_begins_its_attempts_again() {
    let rig = Rig::new().await;
    let worker = rig.start(&QUICK).await;
    rig.sandbox.fault("joseencrypt:status=400".parse().unwrap());
    rig.publish(1).await;
    let (work, dead) = (rig.name("sessions"), rig.name("sessions.dead"));
    for _ in 0..2 {
        until_ready(&rig, &dead, 1).await;
        let (properties, body) = rig.amqp.get(&dead).await;
        let table = properties.headers().clone().unwrap_or_default();
        assert_eq!(table.inner()["x-attempts"], AMQPValue::LongLongInt(1), "{table:?}");
        assert!(!table.inner().contains_key("x-copied-to"), "{table:?}");
        rig.amqp.publish("", &work, properties, &body).await;
    }
    until_ready(&rig, &dead, 1).await;
    assert_eq!(rig.sandbox.requests(instant_connect_worker::sandbox::Endpoint::JoseEncrypt), 3);
    worker.kill();
}
