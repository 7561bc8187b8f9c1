//! The worker survives restarts of its broker.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::net::TcpListener;

use testkit::{
    Rig,
    amqp::{Amqp, Received},
    events::event_of,
    poll,
    program::Program,
    soon,
};

const DOWN: &str = "could not connect to broker; retrying";
const LOST: &str = "lost connection to broker; reconnecting";
const UP: &str = "connected to broker; consuming";

/// Consumes guest links until each of `events` has one. Returns all of them by id.
pub(crate) async fn all_guest_links(
    amqp: &Amqp,
    rig: &Rig,
    events: usize,
) -> BTreeMap<String, Vec<Received>> {
    let mut by_id: BTreeMap<String, Vec<Received>> = BTreeMap::new();
    let mut deliveries = amqp.consume(&rig.name("guests")).await;
    while by_id.len() < events {
        let link = deliveries.next().await;
        by_id.entry(link.id()).or_default().push(link);
    }
    by_id
}

/// Waits until the expert of each of `events` has a message.
pub(crate) async fn until_every_expert_has_message(rig: &Rig, events: usize) {
    let served = rig
        .sandbox
        .until(|sandbox| sandbox.counts().messages >= events as u64 && experts(rig).len() == events);
    soon("every expert's message", served).await;
}

/// The events whose experts have a message.
pub(crate) fn experts(rig: &Rig) -> BTreeSet<usize> {
    rig.sandbox.messages().iter().map(|one| event_of(one.to_person_email.as_ref().unwrap())).collect()
}

/// Checks that each loss of a connection and each reconnect is logged once.
fn assert_logged_once_per_change(worker: &Program) {
    for stage in ["link", "host"] {
        let records = worker.output.records();
        let said: Vec<_> = records
            .iter()
            .filter(|one| one["connection"] == stage)
            .filter_map(|one| one["message"].as_str())
            .filter(|text| [UP, DOWN, LOST].contains(text))
            .map(|text| text == UP)
            .collect();
        assert!(said.windows(2).all(|pair| pair[0] != pair[1]), "{stage}: {said:?}");
        // A connection that broke before it consumed is not logged.
        assert!(said.contains(&false), "{stage}: {said:?}");
        assert_eq!(said.last(), Some(&true));
    }
}

#[tokio::test]
async fn broker_restarts_under_load_lose_nothing_and_keep_message_ids() {
    const EVENTS: usize = 300;
    let rig = Rig::private().await;
    rig.sandbox.fault("joseencrypt:delay=40ms".parse().unwrap());
    let mut worker = rig.start(&[("amqp.concurrency", "4"), ("amqp.prefetch", "8")]).await;
    rig.publish_many(0..EVENTS).await;
    for (calls, crash) in [(50, false), (150, true)] {
        let reached = rig.sandbox.until(|sandbox| sandbox.counts().calls >= calls);
        soon("the next restart", reached).await;
        if crash {
            rig.broker().crash_and_start().await;
        } else {
            rig.broker().restart().await;
        }
    }
    let amqp = rig.reconnect().await;
    let links = all_guest_links(&amqp, &rig, EVENTS).await;
    until_every_expert_has_message(&rig, EVENTS).await;
    assert!(worker.is_running(), "the worker reconnected by itself");
    assert_logged_once_per_change(&worker);
    worker.stop().await;
    rig.assert_queues_are_empty(&amqp).await;
    let served: BTreeSet<_> = links.values().map(|copies| copies[0].json()["eventId"].to_string()).collect();
    assert_eq!((links.len(), served.len()), (EVENTS, EVENTS), "repeats of an event have the same message_id");
}

#[tokio::test]
async fn missing_broker_is_logged_once_and_the_worker_connects_later() {
    let rig = Rig::private().await;
    rig.broker().stop().await;
    // A listener on the broker's port closes each connection and counts them.
    let listener = TcpListener::bind(rig.broker().address()).await.unwrap();
    let counted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&counted);
    let hanging_up = tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let worker = rig.launch(&[("amqp.reconnect_max", "100ms")]);
    poll("twenty attempts", async || (counted.load(Ordering::Relaxed) >= 20).then_some(())).await;
    let mut down: Vec<_> = worker.output.logged(DOWN).iter().map(|one| one["connection"].clone()).collect();
    down.sort_by_key(ToString::to_string);
    assert_eq!(down, ["host", "link", "publish"], "once for each connection");
    assert!(worker.output.logged(LOST).is_empty(), "no connection was established");
    hanging_up.abort();
    // An aborted task has closed its listener once it is joined.
    _ = hanging_up.await;
    rig.broker().start_again().await;
    worker.output.until("subscribed to queue", 2).await;
    let amqp = rig.reconnect().await;
    let event = testkit::event(1).to_string();
    amqp.publish(&rig.name("sessions"), "session.start", testkit::amqp::with_id("event-1"), event.as_bytes())
        .await;
    all_guest_links(&amqp, &rig, 1).await;
    until_every_expert_has_message(&rig, 1).await;
    assert_logged_once_per_change(&worker);
    worker.stop().await;
    rig.assert_queues_are_empty(&amqp).await;
}

#[tokio::test]
async fn worker_without_a_broker_stops_on_sigterm() {
    let rig = Rig::new().await;
    // Nothing listens on port 1.
    let worker = rig.launch(&[("amqp.url", "amqp://guest:guest@127.0.0.1:1/%2f")]);
    worker.output.until(DOWN, 1).await;
    worker.stop().await;
}
