//! An event is processed, and retried through a delay queue, however operators moved it and whatever headers the
//! broker added. Headers that others left on it have no effect.

use jiff::{SignedDuration, Timestamp};
use lapin::{BasicProperties, types::AMQPValue};
use serde_json::json;

use testkit::{
    Rig,
    amqp::{headers, with_id},
    event,
    events::event_with,
    poll,
};

/// Each event fails once, which must not open the breaker.
const QUICK: [(&str, &str); 5] = [
    ("breaker.failures", "1000"),
    ("retry.initial", "10ms"),
    ("retry.max", "50ms"),
    ("retry.jitter", "0"),
    ("retry.delays", "10ms,50ms,1s,10m"),
];

/// Declares the queues of a rig with the settings of the later worker.
async fn declared(rig: Rig) -> Rig {
    assert_eq!(rig.command(&["topology", "--declare"], &QUICK).await.status, Some(0));
    rig
}

async fn until_ready(rig: &Rig, queue: &str, messages: u32) {
    let what = format!("{messages} messages in {queue}");
    poll(&what, async || (rig.amqp.depth(queue).await?.0 == messages).then_some(())).await;
}

/// Starts a worker. Webex fails once per event; each event returns from its delay queue and is processed once.
async fn assert_each_is_delayed_once_and_processed(rig: &Rig, events: usize) {
    rig.sandbox.fault(format!("joseencrypt:status=500,times={events}").parse().unwrap());
    let worker = rig.start(&QUICK).await;
    rig.guest_links().await.take(events).await;
    rig.until_experts_have(events as u64).await;
    assert_eq!(rig.sandbox.counts().joseencrypt, 2 * events as u64, "each failed once");
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
}

async fn replay(rig: &Rig) {
    let replayed = rig.command(&["dead", "replay", "--yes"], &QUICK).await;
    assert_eq!(replayed.status, Some(0), "{replayed:?}");
}

/// Moves a message as the management page does with "Get messages" and "Publish message", properties and headers
/// included.
async fn get_and_republish(rig: &Rig, from: &str, to: &str) {
    let delivered = rig.amqp.get(from).await;
    rig.amqp.publish("", to, delivered.0, &delivered.1).await;
}

#[tokio::test]
async fn expired_event_is_processed_after_replay() {
    let rig = declared(Rig::new().await).await;
    let events = 33;
    // One more than RabbitMQ forwards at once. A delay queue that could not forward these would forward nothing.
    for n in 0..events {
        let properties = with_id(&format!("event-{n}")).with_expiration("1".into());
        rig.publish_event(properties, &event(n)).await;
    }
    until_ready(&rig, &rig.name("sessions.dead"), 33).await;
    replay(&rig).await;
    assert_each_is_delayed_once_and_processed(&rig, events).await;
}

#[tokio::test]
async fn rejected_event_is_processed_after_move_or_replay() {
    let rig = declared(Rig::new().await).await;
    let (work, dead) = (rig.name("sessions"), rig.name("sessions.dead"));
    rig.publish_many(1..=2).await;
    for _ in 1..=2 {
        rig.amqp.reject_first(&work).await;
    }
    until_ready(&rig, &dead, 2).await;
    // One is moved by hand, one by the tool.
    get_and_republish(&rig, &dead, &work).await;
    replay(&rig).await;
    assert_each_is_delayed_once_and_processed(&rig, 2).await;
}

#[tokio::test]
async fn event_expired_by_policy_is_processed_after_move_or_replay() {
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
    assert_each_is_delayed_once_and_processed(&rig, 2).await;
}

#[tokio::test]
async fn event_beyond_delivery_limit_is_processed_after_move_or_replay() {
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
    assert_each_is_delayed_once_and_processed(&rig, 2).await;
}

/// Moves all messages of a queue with RabbitMQ's shovel plugin.
async fn shovel(rig: &Rig, from: &str, to: &str) {
    let shovel = json!({
        "src-protocol": "amqp091", "src-uri": "amqp://", "src-queue": from, "src-delete-after": "queue-length",
        "dest-protocol": "amqp091", "dest-uri": "amqp://", "dest-queue": to, "dest-add-forward-headers": true,
    });
    rig.broker().ctl(&["set_parameter", "shovel", "move", &shovel.to_string()]).await;
    until_ready(rig, from, 0).await;
}

#[tokio::test]
async fn event_moved_by_shovel_between_our_queues_is_processed() {
    let rig = declared(Rig::private().await).await;
    rig.broker().enable("rabbitmq_shovel").await;
    let (work, dead) = (rig.name("sessions"), rig.name("sessions.dead"));
    let hold = rig.name("sessions.hold.600000");
    // From the dead queue, to which the broker moved it.
    for n in 1..=2 {
        let properties = with_id(&format!("event-{n}")).with_expiration("1".into());
        rig.publish_event(properties, &event(n)).await;
    }
    until_ready(&rig, &dead, 2).await;
    shovel(&rig, &dead, &work).await;
    until_ready(&rig, &work, 2).await;
    // From a delay queue before its delay ended.
    get_and_republish(&rig, &work, &hold).await;
    shovel(&rig, &hold, &work).await;
    until_ready(&rig, &work, 2).await;
    assert_each_is_delayed_once_and_processed(&rig, 2).await;
}

/// Headers that another system, or an older dead letter, may have left.
fn foreign_headers() -> BasicProperties {
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
async fn event_with_foreign_headers_of_our_names_is_treated_as_new() {
    let rig = declared(Rig::new().await).await;
    let properties = foreign_headers().with_message_id("event-1".into());
    // If the event names no end, the session's end is counted from the first failure.
    rig.publish_event(properties, &event_with(1, &json!({}))).await;
    assert_each_is_delayed_once_and_processed(&rig, 1).await;
}

#[tokio::test]
async fn dead_letter_moved_by_hand_starts_with_attempt_1() {
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
    assert_eq!(rig.sandbox.requests(instant_connect_sandbox::Endpoint::JoseEncrypt), 3);
    worker.kill();
}
