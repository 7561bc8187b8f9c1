//! A ledger in Redis: it goes, comes back and stalls under load, and two workers share it.

use std::collections::BTreeSet;

use instant_connect_worker::sandbox::Endpoint;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::{
    ledger::server::Server,
    support::{
        Rig,
        admin::Admin,
        amqp::with_id,
        event,
        events::{DEVICE, event_with, number},
        poll,
        program::Program,
        soon,
    },
};

const OPENED: &str = "breaker opened; consuming paused (attempts are not counted while it is open)";
const LINK_DONE: &str = "\"stage\":\"link\",\"outcome\":\"done\"";
const WITHOUT: &str = "ledger unavailable; continuing without deduplication (ledger.on_failure=continue)";

/// With one attempt, an event of which any was counted would be dead.
fn settings<'a>(url: &'a str, on_failure: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("ledger.kind", "redis"),
        ("ledger.url", url),
        ("ledger.on_failure", on_failure),
        ("retry.attempts", "1"),
        ("retry.delays", "10ms,1s"),
        ("breaker.probe_initial", "10ms"),
        ("breaker.probe_max", "100ms"),
    ]
}

/// Each event was served once: one call, one link for its guest, one message for its expert.
async fn assert_each_is_served_once(rig: &Rig, events: usize) {
    let links = rig.guest_links().await.take(events).await;
    let ids: BTreeSet<_> = links.iter().map(crate::support::amqp::Received::id).collect();
    assert_eq!(ids.len(), events, "nobody's link came twice");
    rig.until_experts_have(events as u64).await;
}

/// Waits until stage `link` of these workers is done with so many events.
async fn until_links_done(workers: &[&Program], events: usize) {
    let done = || workers.iter().map(|worker| worker.output.text().matches(LINK_DONE).count()).sum::<usize>();
    poll("events to be done", async || (done() >= events).then_some(())).await;
}

/// How many guests' links nobody has taken.
async fn guest_links_left(rig: &Rig) -> u32 {
    rig.amqp.depth(&rig.name("guests")).await.unwrap().0
}

fn assert_nothing_is_counted(worker: &Program) {
    let records = worker.output.records();
    let counted: Vec<&Value> =
        records.iter().filter(|one| one.get("attempt").is_some_and(|attempt| *attempt != 1)).collect();
    assert_eq!(counted, Vec::<&Value>::new());
}

async fn until_calls(rig: &Rig, calls: u64) {
    let reached = rig.sandbox.until(|sandbox| sandbox.counts().calls >= calls);
    soon(&format!("{calls} calls of Instant Connect"), reached).await;
}

#[tokio::test]
async fn while_redis_is_away_events_wait_and_none_is_counted_or_dead_or_served_twice() {
    const EVENTS: usize = 1200;
    let mut server = Server::durable();
    let rig = Rig::new().await;
    let url = server.url();
    let worker = rig.start(&settings(url.expose_secret(), "wait")).await;
    rig.publish_many(0..EVENTS).await;
    for part in 1..=4 {
        until_calls(&rig, part * EVENTS as u64 / 6).await;
        let opened = worker.output.saying(OPENED).len();
        let stalls = part % 2 == 0;
        if stalls {
            server.signal("STOP");
        } else {
            server.kill();
        }
        poll("the taking of events to stop", async || {
            (worker.output.saying(OPENED).len() > opened).then_some(())
        })
        .await;
        if stalls {
            server.signal("CONT");
        } else {
            server.restart();
        }
    }
    assert_each_is_served_once(&rig, EVENTS).await;
    assert_nothing_is_counted(&worker);
    worker.stop().await;
    rig.assert_all_is_done(&rig.amqp).await;
    assert_eq!(rig.amqp.depth(&rig.name("guests")).await.unwrap().0, 0, "no link beyond these");
    assert_eq!(rig.sandbox.counts().messages, EVENTS as u64);
}

#[tokio::test]
async fn links_that_were_made_while_redis_went_are_kept_when_it_is_back() {
    let mut server = Server::durable();
    let rig = Rig::new().await;
    let url = server.url();
    let mut settings = settings(url.expose_secret(), "wait");
    settings.extend([("devices.allowed", DEVICE), ("admin.listen", "127.0.0.1:0")]);
    let worker = rig.start(&settings).await;
    let admin = Admin::of(&worker).await;
    // More than one call serves: Redis goes under the note of the first one's links, and under the record of all.
    let people: Vec<_> = (0..30).map(|n| json!({"channel": "sms", "address": number(n)})).collect();
    let event = event_with(1, &json!({"guests": people, "devices": [DEVICE]}));
    rig.sandbox.fault("joseencrypt:delay=2s,times=2".parse().unwrap());
    rig.publish_event(with_id("event-1"), &event).await;
    for calls in [1, 2] {
        // It has arrived, and is answered when Redis is gone.
        let arrived = rig.sandbox.until(|sandbox| sandbox.requests(Endpoint::JoseEncrypt) >= calls);
        soon("a call", arrived).await;
        let refused =
            async || -> u64 { admin.series().await["ledger_write_failures_total"].parse().unwrap() };
        let before = refused().await;
        server.kill();
        poll("a write to be refused", async || (refused().await > before).then_some(())).await;
        server.restart();
    }
    rig.guest_links().await.take(30).await;
    rig.until_experts_have(1).await;
    let calls = rig.sandbox.calls();
    assert_eq!(calls.iter().map(|call| call.devices.len()).collect::<Vec<_>>(), [1, 0]);
    worker.stop().await;
}

#[tokio::test]
async fn without_redis_events_are_served_where_that_is_wanted() {
    const EVENTS: usize = 30;
    let mut server = Server::start();
    let rig = Rig::new().await;
    let url = server.url();
    let worker = rig.start(&settings(url.expose_secret(), "continue")).await;
    let mut published = 0;
    let mut next = || {
        published += EVENTS;
        published - EVENTS..published
    };
    rig.publish_many(next()).await;
    until_calls(&rig, 10).await;
    server.kill();
    rig.publish_many(next()).await;
    rig.until_experts_have(2 * EVENTS as u64).await;
    worker.output.until(WITHOUT, 1).await;
    server.restart();
    rig.publish_many(next()).await;
    rig.until_experts_have(3 * EVENTS as u64).await;
    server.signal("STOP");
    rig.publish_many(next()).await;
    rig.until_experts_have(4 * EVENTS as u64).await;
    server.signal("CONT");
    assert_each_is_served_once(&rig, 4 * EVENTS).await;
    // It is used again: what comes twice now has one result.
    worker.output.until(LINK_DONE, 4 * EVENTS).await;
    for _ in 0..2 {
        rig.publish(4 * EVENTS).await;
    }
    worker.output.until(LINK_DONE, 4 * EVENTS + 2).await;
    assert_eq!(guest_links_left(&rig).await, 1, "one message for the guest");
    rig.until_experts_have(4 * EVENTS as u64 + 1).await;
    assert_nothing_is_counted(&worker);
    worker.stop().await;
    rig.assert_all_is_done(&rig.amqp).await;
    assert_eq!(rig.sandbox.counts().messages, 4 * EVENTS as u64 + 1);
}

#[tokio::test]
async fn two_workers_with_the_same_event_at_once_give_one_set_of_links_and_one_message() {
    const EVENTS: usize = 100;
    let server = Server::start();
    let rig = Rig::new().await;
    let url = server.url();
    // Few at a time, so that both workers get some of them.
    let settings =
        [settings(url.expose_secret(), "wait"), vec![("amqp.prefetch", "2"), ("amqp.concurrency", "2")]]
            .concat();
    let workers = [rig.start(&settings).await, rig.start(&settings).await];
    let messages = (0..EVENTS).flat_map(|n| {
        let message = (with_id(&format!("event-{n}")), event(n).to_string().into_bytes());
        [message.clone(), message]
    });
    rig.amqp.publish_all(&rig.name("sessions"), "session.start", messages).await;
    assert_each_is_served_once(&rig, EVENTS).await;
    until_links_done(&[&workers[0], &workers[1]], 2 * EVENTS).await;
    for worker in &workers {
        assert!(!worker.output.saying("done").is_empty(), "both work");
        assert_nothing_is_counted(worker);
    }
    for worker in workers {
        worker.stop().await;
    }
    rig.assert_all_is_done(&rig.amqp).await;
    assert_eq!(guest_links_left(&rig).await, 0, "no link came twice");
    let counts = rig.sandbox.counts();
    assert_eq!((counts.calls, counts.messages), (EVENTS as u64, EVENTS as u64));
}

/// It stands still between its claim and its call, until another worker has served the event.
#[cfg(debug_assertions)]
#[tokio::test]
async fn a_worker_that_stalled_past_its_lease_publishes_no_links_of_its_own() {
    for on_failure in ["continue", "wait"] {
        let server = Server::start();
        let rig = Rig::new().await;
        let url = server.url();
        // What comes next is delivered to the other one.
        let one = vec![("amqp.prefetch", "1"), ("amqp.concurrency", "1")];
        let settings = [settings(url.expose_secret(), on_failure), one].concat();
        let stalled = rig.launch_with_fault(&settings, "link.claimed:1:STOP");
        stalled.output.until("connected to broker; consuming", 2).await;
        rig.publish(1).await;
        stalled.output.until("fault point link.claimed", 1).await;
        server.end_leases();
        let other = rig.start(&settings).await;
        rig.publish(1).await;
        other.output.until(LINK_DONE, 1).await;
        stalled.signal("CONT");
        // It comes to its turn again, and finds that all is published.
        until_links_done(&[&stalled, &other], 2).await;
        rig.until_experts_have(1).await;
        let calls = rig.sandbox.counts().calls;
        assert_eq!(calls, 2, "the stalled one asked for links, too: {on_failure}");
        for worker in [stalled, other] {
            assert_eq!((worker.output.saying(OPENED).len(), worker.output.saying(WITHOUT).len()), (0, 0));
            worker.stop().await;
        }
        rig.assert_all_is_done(&rig.amqp).await;
        assert_eq!(guest_links_left(&rig).await, 1, "one message for the guest: {on_failure}");
        assert_eq!(rig.sandbox.counts().messages, 1, "{on_failure}");
    }
}
