//! Ten thousand events, also with workers that are killed.

use std::collections::{BTreeMap, HashSet};

use super::broker_restarts::{all_guest_links, experts, until_every_expert_has_message};
use testkit::{Rig, events::event_of, random, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_events_no_loss_no_duplicates_bounded_memory() {
    const EVENTS: usize = 10_000;
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let mut guests = rig.guest_links().await;
    let publish = rig.publish_many(0..EVENTS);
    let take = async {
        let mut early = 0;
        let (mut ids, mut events, mut urls) = (HashSet::new(), HashSet::new(), HashSet::new());
        for taken in 1..=EVENTS {
            let link = guests.next().await;
            let body = link.json();
            assert!(ids.insert(link.id()), "a second link with the same id");
            assert!(events.insert(body["eventId"].to_string()) && urls.insert(body["url"].to_string()));
            if taken == 2_000 {
                early = worker.resident_kib();
            }
        }
        early
    };
    let ((), early) = tokio::join!(publish, take);
    rig.until_experts_have(EVENTS as u64).await;
    let late = worker.resident_kib();
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    assert_eq!(rig.amqp.depth(&rig.name("guests")).await.unwrap().0, 0, "no further guest links");
    let counts = rig.sandbox.counts();
    assert_eq!((counts.calls, counts.messages), (EVENTS as u64, EVENTS as u64));
    assert_eq!(experts(&rig).len(), EVENTS, "each expert has one message");
    eprintln!("resident after 2,000 events: {early} KiB, after {EVENTS}: {late} KiB");
    assert!(
        late < early + early / 2 + 20 * 1024,
        "resident after 2,000: {early} KiB, at the end: {late} KiB"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_workers_under_load_lose_nothing_and_keep_message_ids() {
    const EVENTS: usize = 10_000;
    let rig = Rig::new().await;
    let mut random = random();
    let mut worker = rig.start(&[]).await;
    rig.publish_many(0..EVENTS).await;
    for part in 1..=5 {
        let calls = part * EVENTS as u64 / 6 + random.u64(0..100);
        let reached = rig.sandbox.until(|sandbox| sandbox.counts().calls >= calls);
        soon("the next kill", reached).await;
        worker.kill();
        worker = rig.start(&[]).await;
    }
    let links = all_guest_links(&rig.amqp, &rig, EVENTS).await;
    until_every_expert_has_message(&rig, EVENTS).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;

    let known = rig.sandbox.links();
    let (mut served, mut repeats) = (HashSet::new(), 0);
    for copies in links.values() {
        let bodies: Vec<_> = copies.iter().map(testkit::amqp::Received::json).collect();
        assert!(
            served.insert(bodies[0]["eventId"].to_string()),
            "repeats of an event have the same message_id"
        );
        repeats += bodies.len() - 1;
        for body in &bodies {
            let link = &known[body["short"].as_str().unwrap()];
            assert_eq!((&body["eventId"], &body["to"]), (&bodies[0]["eventId"], &bodies[0]["to"]));
            assert_eq!(
                link.sub,
                bodies[0]["sessionId"].as_str().unwrap(),
                "repeats lead to the same meeting"
            );
        }
    }
    let mut messages: BTreeMap<usize, usize> = BTreeMap::new();
    for message in rig.sandbox.messages() {
        *messages.entry(event_of(message.to_person_email.as_ref().unwrap())).or_default() += 1;
    }
    let repeated = messages.values().filter(|count| **count > 1).count();
    eprintln!("{repeats} guests' links and {repeated} experts' messages were repeated");
    assert_eq!((served.len(), messages.len()), (EVENTS, EVENTS));
}
