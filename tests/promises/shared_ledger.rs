//! A ledger in Redis: Redis stops, recovers and stalls under load, and two workers share it.

use std::collections::BTreeSet;

use instant_connect_sandbox::Endpoint;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use testkit::{
    Rig,
    admin::Admin,
    amqp::with_id,
    event,
    events::{DEVICE, SPACE, email, event_with, number},
    poll,
    program::Program,
    redis_server::RedisServer,
    soon,
};

const OPENED: &str = "breaker opened; consuming paused (attempts are not counted while it is open)";
const LINK_DONE: &str = "\"stage\":\"link\",\"outcome\":\"done\"";
const WITHOUT: &str = "ledger unavailable; continuing without deduplication (ledger.on_failure=continue)";

/// With one attempt, an event with a counted failure would be dead.
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

/// Checks that each event led to one call, one link for its guest and one message for its expert.
async fn assert_each_is_processed_once(rig: &Rig, events: usize) {
    let links = rig.guest_links().await.take(events).await;
    let ids: BTreeSet<_> = links.iter().map(testkit::amqp::Received::id).collect();
    assert_eq!(ids.len(), events, "no link was repeated");
    rig.until_experts_have(events as u64).await;
}

/// Waits until stage `link` of these workers has finished this many events.
async fn until_links_done(workers: &[&Program], events: usize) {
    let done = || workers.iter().map(|worker| worker.output.text().matches(LINK_DONE).count()).sum::<usize>();
    poll("events to be done", async || (done() >= events).then_some(())).await;
}

/// The number of guest links that are left in the queue.
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
async fn redis_outage_delays_events_without_counts_loss_or_duplicates() {
    const EVENTS: usize = 1200;
    let mut server = RedisServer::durable();
    let rig = Rig::new().await;
    let url = server.url();
    let mut settings = settings(url.expose_secret(), "wait");
    settings.push(("admin.listen", "127.0.0.1:0"));
    let worker = rig.start(&settings).await;
    let admin = Admin::of(&worker).await;
    // If all events in progress wait to be recorded, no breaker opens.
    let noticed = async || {
        let refused: usize = admin.series().await["ledger_write_failures_total"].parse().unwrap();
        worker.output.logged(OPENED).len() + refused
    };
    rig.publish_many(0..EVENTS).await;
    for part in 1..=4 {
        until_calls(&rig, part * EVENTS as u64 / 6).await;
        let before = noticed().await;
        let stalls = part % 2 == 0;
        if stalls {
            server.signal("STOP");
        } else {
            server.kill();
        }
        poll("the outage to be noticed", async || (noticed().await > before).then_some(())).await;
        if stalls {
            server.signal("CONT");
        } else {
            server.restart();
        }
    }
    assert_each_is_processed_once(&rig, EVENTS).await;
    assert_nothing_is_counted(&worker);
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    assert_eq!(rig.amqp.depth(&rig.name("guests")).await.unwrap().0, 0, "no further guest links");
    assert_eq!(rig.sandbox.counts().messages, EVENTS as u64);
}

#[tokio::test]
async fn links_made_during_a_redis_outage_are_stored_later() {
    let mut server = RedisServer::durable();
    let rig = Rig::new().await;
    let url = server.url();
    let mut settings = settings(url.expose_secret(), "wait");
    settings.extend([("devices.allowed", DEVICE), ("admin.listen", "127.0.0.1:0")]);
    let worker = rig.start(&settings).await;
    let admin = Admin::of(&worker).await;
    // Two calls: Redis stops before the note of the first call's links, and before the record of all links.
    let people: Vec<_> = (0..30).map(|n| json!({"channel": "sms", "address": number(n)})).collect();
    let event = event_with(1, &json!({"guests": people, "devices": [DEVICE]}));
    rig.sandbox.fault("joseencrypt:delay=2s,times=2".parse().unwrap());
    rig.publish_event(with_id("event-1"), &event).await;
    for calls in [1, 2] {
        // The call has arrived; its response comes after Redis has stopped.
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
async fn events_are_processed_without_redis_if_on_failure_is_continue() {
    const EVENTS: usize = 30;
    let mut server = RedisServer::start();
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
    assert_each_is_processed_once(&rig, 4 * EVENTS).await;
    // Redis is used again: a repeated event has one result.
    worker.output.until(LINK_DONE, 4 * EVENTS).await;
    for _ in 0..2 {
        rig.publish(4 * EVENTS).await;
    }
    worker.output.until(LINK_DONE, 4 * EVENTS + 2).await;
    assert_eq!(guest_links_left(&rig).await, 1, "one message for the guest");
    rig.until_experts_have(4 * EVENTS as u64 + 1).await;
    assert_nothing_is_counted(&worker);
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    assert_eq!(rig.sandbox.counts().messages, 4 * EVENTS as u64 + 1);
}

/// Without the ledger nothing counts the messages whose response was lost. A person's message is looked up, a space's becomes a dead letter.
#[tokio::test]
async fn without_the_ledger_an_expert_gets_one_message_although_its_response_is_lost() {
    let mut server = RedisServer::start();
    let rig = Rig::new().await;
    let url = server.url();
    let mut settings = settings(url.expose_secret(), "continue");
    settings.push(("retry.attempts", "20"));
    let worker = rig.start(&settings).await;
    server.kill();
    let experts = [json!([{"roomId": SPACE}]), json!([{"email": email(2)}])];
    for (n, experts) in (1..).zip(experts) {
        rig.sandbox.fault("messages:cut=body,times=1".parse().unwrap());
        rig.publish_event(with_id(&format!("event-{n}")), &event_with(n, &json!({"experts": experts}))).await;
        if n == 1 {
            let letter = rig.dead_letters("hosts").await.next().await;
            assert_eq!(letter.header("x-dead-class"), "exhausted");
            let reason = letter.header("x-dead-reason");
            assert!(reason.contains("ledger.on_failure=continue"), "{reason}");
        }
    }
    worker.output.until("\"stage\":\"host\",\"outcome\":\"done\"", 1).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    let counts = rig.sandbox.counts();
    assert_eq!((counts.messages, counts.message_requests), (2, 3), "two messages, and one list");
}

#[tokio::test]
async fn two_workers_with_the_same_event_give_one_result() {
    const EVENTS: usize = 100;
    let server = RedisServer::start();
    let rig = Rig::new().await;
    let url = server.url();
    // A small prefetch, so that both workers get some events.
    let settings =
        [settings(url.expose_secret(), "wait"), vec![("amqp.prefetch", "2"), ("amqp.concurrency", "2")]]
            .concat();
    let workers = [rig.start(&settings).await, rig.start(&settings).await];
    let messages = (0..EVENTS).flat_map(|n| {
        let message = (with_id(&format!("event-{n}")), event(n).to_string().into_bytes());
        [message.clone(), message]
    });
    rig.amqp.publish_all(&rig.name("sessions"), "session.start", messages).await;
    assert_each_is_processed_once(&rig, EVENTS).await;
    until_links_done(&[&workers[0], &workers[1]], 2 * EVENTS).await;
    for worker in &workers {
        assert!(!worker.output.logged("done").is_empty(), "both workers processed events");
        assert_nothing_is_counted(worker);
    }
    for worker in workers {
        worker.stop().await;
    }
    rig.assert_queues_are_empty(&rig.amqp).await;
    assert_eq!(guest_links_left(&rig).await, 0, "no link was repeated");
    let counts = rig.sandbox.counts();
    assert_eq!((counts.calls, counts.messages), (EVENTS as u64, EVENTS as u64));
}

/// The worker is suspended between its claim and its call until another worker has processed the event.
#[cfg(debug_assertions)]
#[tokio::test]
async fn worker_suspended_past_its_lease_publishes_no_second_links() {
    for on_failure in ["continue", "wait"] {
        let server = RedisServer::start();
        let rig = Rig::new().await;
        let url = server.url();
        // The next message is delivered to the other worker.
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
        // The stalled worker claims the event again and finds everything published.
        until_links_done(&[&stalled, &other], 2).await;
        rig.until_experts_have(1).await;
        let calls = rig.sandbox.counts().calls;
        assert_eq!(calls, 2, "the suspended worker made a call too: {on_failure}");
        for worker in [stalled, other] {
            assert_eq!((worker.output.logged(OPENED).len(), worker.output.logged(WITHOUT).len()), (0, 0));
            worker.stop().await;
        }
        rig.assert_queues_are_empty(&rig.amqp).await;
        assert_eq!(guest_links_left(&rig).await, 1, "one message for the guest: {on_failure}");
        assert_eq!(rig.sandbox.counts().messages, 1, "{on_failure}");
    }
}
