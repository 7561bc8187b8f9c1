//! Nothing goes where nobody takes it, and the broker's exchanges and queues are what they must be.

use std::collections::BTreeSet;

use lapin::types::AMQPValue;

use crate::support::{Rig, amqp::Received, program::Program, soon};

async fn declared(rig: &Rig) {
    let declared = rig.command(&["topology", "--declare"], &[]).await;
    assert_eq!(declared.status, Some(0), "{declared:?}");
}

/// Waits for the worker to give up, and gives what it said last.
async fn gives_up(worker: Program) -> String {
    let output = std::sync::Arc::clone(&worker.output);
    assert_eq!(worker.ended().await.code(), Some(1));
    output.text().lines().last().unwrap().to_owned()
}

#[tokio::test]
async fn a_link_that_no_queue_is_bound_for_ends_its_event_and_says_which() {
    let rig = Rig::new().await;
    declared(&rig).await;
    let worker = rig.start(&[("topology.declare", "off")]).await;
    rig.amqp.unbind(&rig.name("guests"), &rig.name("links"), "guest.sms").await;
    rig.publish(1).await;
    let letter = rig.dead_letters("sessions").await.next().await;
    assert_eq!((letter.id().as_str(), letter.header("x-dead-class").as_str()), ("event-1", "unroutable"));
    let reason = letter.header("x-dead-reason");
    assert!(reason.contains(&rig.name("links")) && reason.contains("guest.sms"), "{reason}");
    assert_eq!(letter.json(), crate::support::event(1));
    worker.stop().await;
}

#[tokio::test]
async fn a_guests_queue_that_was_deleted_is_made_again_for_the_link_that_comes() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    rig.amqp.delete_queues([rig.name("guests").as_str()]).await;
    rig.publish(1).await;
    rig.until_experts_have(1).await;
    worker.output.until("\"outcome\":\"done\"", 2).await;
    let link = rig.guest_links().await.next().await;
    assert_eq!(link.json()["eventId"], "event-1");
    worker.stop().await;
    rig.assert_all_is_done(&rig.amqp).await;
}

#[tokio::test]
async fn with_delivery_over_amqp_the_host_link_is_left_for_others() {
    let rig = Rig::new().await;
    let worker = rig.start(&[("hosts.delivery", "amqp")]).await;
    rig.publish(1).await;
    rig.guest_links().await.next().await;
    let (_, consumers) = rig.amqp.depth(&rig.name("hosts")).await.unwrap();
    assert_eq!(consumers, 0, "the worker leaves it alone");
    let link = rig.amqp.consume(&rig.name("hosts")).await.next().await;
    assert_eq!((link.routing_key.as_str(), &link.json()["sessionId"]), ("host.webex", &"visit-1".into()));
    worker.stop().await;
    assert_eq!(rig.sandbox.counts().message_requests, 0);
}

#[tokio::test]
async fn a_worker_that_only_checks_ends_and_names_what_is_missing() {
    let rig = Rig::new().await;
    let last = gives_up(rig.launch(&[("topology.declare", "check")])).await;
    assert!(last.contains(&format!("exchange {}", rig.name("sessions"))), "{last}");
    declared(&rig).await;
    rig.amqp.delete_queues([rig.name("hosts.dead").as_str()]).await;
    let last = gives_up(rig.launch(&[("topology.declare", "check")])).await;
    assert!(last.contains(&format!("queue {}: it does not exist", rig.name("hosts.dead"))), "{last}");
    assert!(last.contains("topology --declare"), "it says what to do: {last}");
    declared(&rig).await;
    let worker = rig.start(&[("topology.declare", "check")]).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_queue_of_another_length_ends_the_worker_and_is_named_with_its_argument() {
    let rig = Rig::new().await;
    let text = |text: &str| AMQPValue::LongString(text.into());
    let arguments = [
        ("x-queue-type", text("quorum")),
        ("x-overflow", text("reject-publish")),
        ("x-max-length", AMQPValue::LongInt(7)),
        ("x-delivery-limit", AMQPValue::LongInt(i32::MAX)),
    ];
    rig.amqp.declare(&rig.name("guests.dead"), &arguments).await;
    let last = gives_up(rig.launch(&[])).await;
    assert!(last.contains(&format!("queue {}: argument x-max-length", rig.name("guests.dead"))), "{last}");
}

#[tokio::test]
async fn a_full_queue_loses_no_link_and_repeats_none() {
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
