//! One kind of fault at a time, under load, without loss.

use std::time::Duration;

use instant_connect_sandbox::Endpoint;
use testkit::relay::Flow;
use tokio::time::sleep;

use super::{
    storm::{random, setting},
    testbed::{Plan, Testbed},
};

/// Minimum duration of an outage. `CHAOS_OUTAGE_S` sets a longer one than the tests need.
async fn outlast() {
    sleep(Duration::from_secs(setting("CHAOS_OUTAGE_S").unwrap_or(0))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_workers_killed_at_random_under_load_lose_nothing() {
    let mut random = random();
    let mut testbed = Testbed::start(Plan::default()).await;
    testbed.publish();
    for part in 1..=6 {
        testbed.history.until_finished(part * 140 + random.u32(0..40)).await;
        testbed.kill_worker(0).await;
    }
    let report = testbed.finish().await;
    report.assert();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_broker_restarts_and_kills_under_load_lose_nothing() {
    let plan = Plan { events: 1200, workers: 2, nodes: 1, ..Plan::default() };
    let mut testbed = Testbed::start(plan).await;
    testbed.let_queues_settle().await;
    testbed.publish();
    for (finished, crash) in [(200, false), (450, true), (700, false)] {
        testbed.history.until_finished(finished).await;
        testbed.restart_broker(crash).await;
    }
    let report = testbed.finish().await;
    report.assert();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_network_stalls_drops_and_cuts_lose_nothing() {
    let mut testbed = Testbed::start(Plan::default()).await;
    testbed.publish();
    let slow = Flow::Delay(Duration::from_millis(100));
    let faults = [
        ("stall", Flow::Stall, Flow::Stall),
        ("drop to the broker", Flow::Drop, Flow::Pass),
        ("drop to the worker", Flow::Pass, Flow::Drop),
        ("stall to the broker", Flow::Stall, Flow::Pass),
        ("stall to the worker", Flow::Pass, Flow::Stall),
        ("delay", slow, slow),
    ];
    let mut finished = 0;
    for (what, up, down) in faults {
        finished += 130;
        testbed.history.until_finished(finished).await;
        testbed.history.disturbed(what);
        let connections = testbed.relay.accepted();
        testbed.relay.set(up, down);
        if what == "delay" {
            testbed.history.until_finished(finished + 20).await;
        } else {
            // The worker closes such a connection by itself.
            testbed.relay.until_accepted(connections + 1).await;
        }
        testbed.relay.heal();
        testbed.history.healed(what);
    }
    for _ in 0..3 {
        finished += 20;
        testbed.history.until_finished(finished).await;
        testbed.history.disturbed("cut");
        testbed.relay.cut();
        testbed.history.healed("cut");
    }
    let report = testbed.finish().await;
    report.assert();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_deleted_queues_are_redeclared_and_consumed_again() {
    // While a queue is missing, links may be unroutable.
    let plan = Plan { events: 600, window: 100, explained_classes: vec!["unroutable"], ..Plan::default() };
    let mut testbed = Testbed::start(plan).await;
    for name in ["sessions", "hosts"] {
        let queue = testbed.name(name);
        // The messages of a deleted queue can't be recovered, so the queue is empty.
        testbed.history.disturbed("queue deleted");
        testbed.delete_queue(&queue).await;
        testbed.history.healed("queue deleted");
        if name == "sessions" {
            // Publishes fail meanwhile, and the publisher repeats them.
            testbed.publish();
        }
        testbed.until_consumed(&queue).await;
        testbed.history.until_finished(600).await;
    }
    let report = testbed.finish().await;
    report.assert();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_disk_alarm_blocks_publishing_and_loses_nothing() {
    let mut testbed = Testbed::start(Plan { nodes: 1, ..Plan::default() }).await;
    testbed.publish();
    for (alarm, events) in [(1, 250), (2, 500)] {
        testbed.history.until_finished(events).await;
        // Events wait while the API is down, so there is something to publish when the disk is full.
        testbed.sandbox.fault("joseencrypt:status=503".parse().unwrap());
        testbed.history.until_confirmed(events + 100).await;
        testbed.history.disturbed("disk alarm");
        let worker = testbed.workers[0].as_ref().unwrap();
        testbed.nodes[0].disk_is_full(true).await;
        testbed.sandbox.clear_faults();
        worker.output.until("broker blocked publishing", alarm).await;
        testbed.nodes[0].disk_is_full(false).await;
        worker.output.until("broker unblocked publishing", alarm).await;
        testbed.history.healed("disk alarm");
    }
    let report = testbed.finish().await;
    report.assert();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_upstream_outage_ends_without_a_burst_of_calls() {
    const CONCURRENCY: usize = 8;
    /// The duration of each call after the outage.
    const ANSWER: Duration = Duration::from_millis(200);
    let settings = vec![("amqp.concurrency", "8"), ("amqp.prefetch", "16")];
    let mut testbed = Testbed::start(Plan { events: 500, window: 500, settings, ..Plan::default() }).await;
    for endpoint in ["joseencrypt", "messages"] {
        testbed.sandbox.fault(format!("{endpoint}:status=503").parse().unwrap());
    }
    testbed.publish();
    testbed.history.until_confirmed(500).await;
    let down = testbed.sandbox.requests(Endpoint::JoseEncrypt);
    // Probes run one at a time, so this many take a while.
    testbed.sandbox.until(|sandbox| sandbox.requests(Endpoint::JoseEncrypt) >= down + 12).await;
    outlast().await;
    let during = testbed.sandbox.requests(Endpoint::JoseEncrypt);
    testbed.sandbox.clear_faults();
    testbed.sandbox.fault(format!("joseencrypt:delay={}ms", ANSWER.as_millis()).parse().unwrap());
    testbed.history.until_finished(250).await;
    let arrivals: Vec<_> = testbed
        .sandbox
        .arrivals(Endpoint::JoseEncrypt)
        .into_iter()
        .skip(usize::try_from(during).unwrap())
        .map(|arrival| arrival.at)
        .collect();
    let busiest = arrivals
        .iter()
        .map(|first| {
            let within = |at: &&std::time::Instant| **at >= *first && **at - *first < Duration::from_secs(1);
            arrivals.iter().filter(within).count()
        })
        .max()
        .unwrap();
    let report = testbed.finish().await;
    eprintln!("{during} requests during the outage; at most {busiest} in one second after it");
    // Each of the concurrent deliveries makes its next call after its response: five per second, plus one at the
    // edge.
    assert!(busiest <= CONCURRENCY * 6, "{busiest} requests within a second");
    report.assert();
    assert_eq!(report.json["callsRepeated"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_retry_after_is_honoured_by_all_tasks_and_never_counted() {
    let seconds = if setting("CHAOS_OUTAGE_S").is_some() { 7 } else { 2 };
    let asked = Duration::from_secs(seconds);
    // With one attempt, a counted failure would dead-letter the event.
    let settings = vec![("retry.attempts", "1"), ("amqp.concurrency", "8"), ("amqp.prefetch", "16")];
    let mut testbed = Testbed::start(Plan { events: 300, window: 300, settings, ..Plan::default() }).await;
    testbed.sandbox.fault(format!("joseencrypt:status=429,retry-after={seconds}").parse().unwrap());
    testbed.publish();
    // The first calls may run concurrently; the later ones are probes, one at a time.
    testbed.sandbox.until(|sandbox| sandbox.requests(Endpoint::JoseEncrypt) >= 8 + 4).await;
    outlast().await;
    testbed.sandbox.clear_faults();
    testbed.history.until_finished(200).await;
    let arrivals = testbed.sandbox.arrivals(Endpoint::JoseEncrypt);
    let report = testbed.finish().await;
    let refused: Vec<_> = arrivals.iter().filter(|arrival| arrival.fault.is_some()).collect();
    let first = refused[0].at;
    let in_flight = refused.iter().filter(|arrival| arrival.at - first < asked).count();
    assert!(in_flight <= 8, "{in_flight} requests, but only 8 can be in progress");
    // After the last of these, no call may come early.
    for pair in arrivals[in_flight - 1..=refused.len()].windows(2) {
        let wait = pair[1].at - pair[0].at;
        assert!(wait >= asked, "{wait:?} after a Retry-After of {asked:?}");
    }
    report.assert();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_worker_terminated_under_load_loses_and_repeats_nothing() {
    let mut testbed = Testbed::start(Plan { workers: 2, ..Plan::default() }).await;
    testbed.publish();
    for (finished, worker) in [(180, 0), (360, 1), (540, 0), (720, 1)] {
        testbed.history.until_finished(finished).await;
        testbed.terminate_worker(worker).await;
    }
    let report = testbed.finish().await;
    report.assert();
    assert_eq!((&report.json["repeatedSameId"], &report.json["callsRepeated"]), (&0.into(), &0.into()));
}
