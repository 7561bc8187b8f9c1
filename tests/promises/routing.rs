//! No message goes to a missing queue, and the broker's exchanges and queues must match the configuration.

use std::collections::BTreeSet;

use lapin::types::AMQPValue;

use testkit::{Rig, amqp::Received, program::Program, soon};

async fn declared(rig: &Rig) {
    let declared = rig.command(&["topology", "--declare"], &[]).await;
    assert_eq!(declared.status, Some(0), "{declared:?}");
}

/// Waits for the worker to fail. Returns the last line of its log.
async fn last_line_of_failed_worker(worker: Program) -> String {
    let output = std::sync::Arc::clone(&worker.output);
    assert_eq!(worker.ended().await.code(), Some(1));
    output.text().lines().last().unwrap().to_owned()
}

#[tokio::test]
async fn unroutable_link_is_dead_lettered_with_exchange_and_key() {
    let rig = Rig::new().await;
    declared(&rig).await;
    let worker = rig.start(&[("topology.declare", "off")]).await;
    rig.amqp.unbind(&rig.name("guests"), &rig.name("links"), "guest.sms").await;
    rig.publish(1).await;
    let letter = rig.dead_letters("sessions").await.next().await;
    assert_eq!((letter.id().as_str(), letter.header("x-dead-class").as_str()), ("event-1", "unroutable"));
    let reason = letter.header("x-dead-reason");
    assert!(reason.contains(&rig.name("links")) && reason.contains("guest.sms"), "{reason}");
    assert_eq!(letter.json(), testkit::event(1));
    worker.stop().await;
}

#[tokio::test]
async fn deleted_guests_queue_is_redeclared_for_the_next_link() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    rig.amqp.delete_queues([rig.name("guests").as_str()]).await;
    rig.publish(1).await;
    rig.until_experts_have(1).await;
    worker.output.until("\"outcome\":\"done\"", 2).await;
    let link = rig.guest_links().await.next().await;
    assert_eq!(link.json()["eventId"], "event-1");
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
}

#[tokio::test]
async fn host_link_is_left_on_the_queue_if_delivery_is_amqp() {
    let rig = Rig::new().await;
    let worker = rig.start(&[("hosts.delivery", "amqp")]).await;
    rig.publish(1).await;
    rig.guest_links().await.next().await;
    let (_, consumers) = rig.amqp.depth(&rig.name("hosts")).await.unwrap();
    assert_eq!(consumers, 0, "the worker does not consume it");
    let link = rig.amqp.consume(&rig.name("hosts")).await.next().await;
    assert_eq!((link.routing_key.as_str(), &link.json()["sessionId"]), ("host.webex", &"visit-1".into()));
    worker.stop().await;
    assert_eq!(rig.sandbox.counts().message_requests, 0);
}

#[tokio::test]
async fn missing_queue_fails_the_worker_if_declare_is_check() {
    let rig = Rig::new().await;
    let last = last_line_of_failed_worker(rig.launch(&[("topology.declare", "check")])).await;
    assert!(last.contains(&format!("exchange {}", rig.name("sessions"))), "{last}");
    declared(&rig).await;
    rig.amqp.delete_queues([rig.name("hosts.dead").as_str()]).await;
    let last = last_line_of_failed_worker(rig.launch(&[("topology.declare", "check")])).await;
    assert!(last.contains(&format!("queue {}: does not exist", rig.name("hosts.dead"))), "{last}");
    assert!(last.contains("topology --declare"), "the advice is missing: {last}");
    declared(&rig).await;
    let worker = rig.start(&[("topology.declare", "check")]).await;
    worker.stop().await;
}

#[tokio::test]
async fn queue_with_different_length_fails_the_worker_and_is_named() {
    let rig = Rig::new().await;
    let text = |text: &str| AMQPValue::LongString(text.into());
    let arguments = [
        ("x-queue-type", text("quorum")),
        ("x-overflow", text("reject-publish")),
        ("x-max-length", AMQPValue::LongInt(7)),
        ("x-delivery-limit", AMQPValue::LongInt(i32::MAX)),
    ];
    rig.amqp.declare(&rig.name("guests.dead"), &arguments).await;
    let last = last_line_of_failed_worker(rig.launch(&[])).await;
    assert!(last.contains(&format!("queue {}: argument x-max-length", rig.name("guests.dead"))), "{last}");
}

#[tokio::test]
async fn full_queue_loses_no_link_and_repeats_none() {
    const EVENTS: usize = 6;
    let rig = Rig::new().await;
    let worker = rig.start(&[("topology.queue_length_max", "1"), ("hosts.delivery", "amqp")]).await;
    for n in 0..EVENTS {
        rig.publish(n).await;
        let called = rig.sandbox.until(|sandbox| sandbox.counts().calls > n as u64);
        soon("the event's call", called).await;
    }
    let (ready, _) = rig.amqp.depth(&rig.name("guests")).await.unwrap();
    assert!(usize::try_from(ready).unwrap() < EVENTS, "{ready}: the queue is full");
    let (mut guests, mut hosts) = (rig.guest_links().await, rig.amqp.consume(&rig.name("hosts")).await);
    for deliveries in [&mut guests, &mut hosts] {
        let links = deliveries.take(EVENTS).await;
        let ids: BTreeSet<_> = links.iter().map(Received::id).collect();
        assert_eq!(ids.len(), EVENTS);
    }
    worker.output.until("\"outcome\":\"done\"", EVENTS).await;
    worker.stop().await;
    for queue in ["sessions", "sessions.dead", "guests", "hosts"] {
        assert_eq!(rig.amqp.depth(&rig.name(queue)).await.unwrap().0, 0, "{queue}");
    }
}
