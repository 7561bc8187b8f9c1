//! One kind of trouble at a time, under load, and nothing is lost.

use std::time::Duration;

use instant_connect_worker::sandbox::Endpoint;
use tokio::time::sleep;

use super::{
    field::{Field, Plan},
    relay::Flow,
    storm::{random, setting},
};

/// So long an outage goes on at least: `CHAOS_OUTAGE_S`, for the two-minute one, which no test needs.
async fn outlast() {
    sleep(Duration::from_secs(setting("CHAOS_OUTAGE_S").unwrap_or(0))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_a_worker_killed_at_random_under_load() {
    let mut random = random();
    let mut field = Field::start(Plan::default()).await;
    field.publish();
    for part in 1..=6 {
        field.history.until_finished(part * 140 + random.u32(0..40)).await;
        field.kill_worker(0).await;
    }
    let report = field.finish().await;
    report.assert();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_a_broker_restarted_and_killed_under_load() {
    let plan = Plan { events: 1200, workers: 2, nodes: 1, ..Plan::default() };
    let mut field = Field::start(plan).await;
    field.let_queues_settle().await;
    field.publish();
    for (finished, crash) in [(200, false), (450, true), (700, false)] {
        field.history.until_finished(finished).await;
        field.restart_broker(crash).await;
    }
    let report = field.finish().await;
    report.assert();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_a_network_that_stalls_drops_one_way_and_cuts() {
    let mut field = Field::start(Plan::default()).await;
    field.publish();
    let slow = Flow::Delay(Duration::from_millis(100));
    let troubles = [
        ("stall", Flow::Stall, Flow::Stall),
        ("drop to the broker", Flow::Drop, Flow::Pass),
        ("drop to the worker", Flow::Pass, Flow::Drop),
        ("stall to the broker", Flow::Stall, Flow::Pass),
        ("stall to the worker", Flow::Pass, Flow::Stall),
        ("delay", slow, slow),
    ];
    let mut finished = 0;
    for (what, up, down) in troubles {
        finished += 130;
        field.history.until_finished(finished).await;
        field.history.disturbed(what);
        let connections = field.relay.accepted();
        field.relay.set(up, down);
        if what == "delay" {
            field.history.until_finished(finished + 20).await;
        } else {
            // The worker gives such a connection up by itself.
            field.relay.until_accepted(connections + 1).await;
        }
        field.relay.heal();
        field.history.healed(what);
    }
    for _ in 0..3 {
        finished += 20;
        field.history.until_finished(finished).await;
        field.history.disturbed("cut");
        field.relay.cut();
        field.history.healed("cut");
    }
    let report = field.finish().await;
    report.assert();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_queues_deleted_under_their_consumers() {
    // Between the end of a queue and its new beginning, links may have nowhere to go.
    let plan = Plan { events: 600, window: 100, explained: vec!["unroutable"], ..Plan::default() };
    let mut field = Field::start(plan).await;
    for name in ["sessions", "hosts"] {
        let queue = field.name(name);
        // What is in it when somebody deletes it is gone, and nobody could bring it back: so it is empty.
        field.history.disturbed("queue deleted");
        field.delete_queue(&queue).await;
        field.history.healed("queue deleted");
        if name == "sessions" {
            // Events are refused meanwhile, and published again by whoever did.
            field.publish();
        }
        field.until_taken_from(&queue).await;
        field.history.until_finished(600).await;
    }
    let report = field.finish().await;
    report.assert();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_a_disk_alarm_blocks_publishing_and_passes() {
    let mut field = Field::start(Plan { nodes: 1, ..Plan::default() }).await;
    field.publish();
    for (alarm, events) in [(1, 250), (2, 500)] {
        field.history.until_finished(events).await;
        // Events wait while the API is down, so that there is something to publish when the disk is full.
        field.sandbox.fault("joseencrypt:status=503".parse().unwrap());
        field.history.until_confirmed(events + 100).await;
        field.history.disturbed("disk alarm");
        let worker = field.workers[0].as_ref().unwrap();
        field.nodes().disk_is_full(true).await;
        field.sandbox.clear_faults();
        worker.until_it_says("broker blocked publishing", alarm).await;
        field.nodes().disk_is_full(false).await;
        worker.until_it_says("broker unblocked publishing", alarm).await;
        field.history.healed("disk alarm");
    }
    let report = field.finish().await;
    report.assert();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_an_upstream_that_is_down_is_waited_out_without_a_storm_at_its_return() {
    const CONCURRENCY: usize = 8;
    /// At its return each answer takes so long.
    const ANSWER: Duration = Duration::from_millis(200);
    let settings = vec![("amqp.concurrency", "8"), ("amqp.prefetch", "16")];
    let mut field = Field::start(Plan { events: 500, window: 500, settings, ..Plan::default() }).await;
    for endpoint in ["joseencrypt", "messages"] {
        field.sandbox.fault(format!("{endpoint}:status=503").parse().unwrap());
    }
    field.publish();
    field.history.until_confirmed(500).await;
    let down = field.sandbox.requests(Endpoint::JoseEncrypt);
    // Probes go on one at a time: so many take a while.
    field.sandbox.until(|sandbox| sandbox.requests(Endpoint::JoseEncrypt) >= down + 12).await;
    outlast().await;
    let during = field.sandbox.requests(Endpoint::JoseEncrypt);
    field.sandbox.clear_faults();
    field.sandbox.fault(format!("joseencrypt:delay={}ms", ANSWER.as_millis()).parse().unwrap());
    field.history.until_finished(250).await;
    let arrivals: Vec<_> = field
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
    let report = field.finish().await;
    eprintln!("{during} requests while it was down; at most {busiest} within a second of its return");
    // Each place asks again only after its answer: five times a second, and once at the edge.
    assert!(busiest <= CONCURRENCY * 6, "{busiest} requests within a second");
    report.assert();
    assert_eq!(report.json["callsRepeated"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_a_retry_after_for_everything_is_obeyed_by_all_tasks_and_counted_by_none() {
    let seconds = if setting("CHAOS_OUTAGE_S").is_some() { 7 } else { 2 };
    let asked = Duration::from_secs(seconds);
    // With one attempt, one that was counted would be the end.
    let settings = vec![("retry.attempts", "1"), ("amqp.concurrency", "8"), ("amqp.prefetch", "16")];
    let mut field = Field::start(Plan { events: 300, window: 300, settings, ..Plan::default() }).await;
    field.sandbox.fault(format!("joseencrypt:status=429,retry-after={seconds}").parse().unwrap());
    field.publish();
    // The first may come with its neighbours; those after it come one at a time.
    field.sandbox.until(|sandbox| sandbox.requests(Endpoint::JoseEncrypt) >= 8 + 4).await;
    outlast().await;
    field.sandbox.clear_faults();
    field.history.until_finished(200).await;
    let arrivals = field.sandbox.arrivals(Endpoint::JoseEncrypt);
    let report = field.finish().await;
    let refused: Vec<_> = arrivals.iter().filter(|arrival| arrival.fault.is_some()).collect();
    let first = refused[0].at;
    let in_flight = refused.iter().filter(|arrival| arrival.at - first < asked).count();
    assert!(in_flight <= 8, "{in_flight} requests, and 8 can be on their way");
    // From the last of those on, nothing comes before it may.
    for pair in arrivals[in_flight - 1..=refused.len()].windows(2) {
        let wait = pair[1].at - pair[0].at;
        assert!(wait >= asked, "{wait:?} after a Retry-After of {asked:?}");
    }
    report.assert();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_a_worker_terminated_under_load_loses_and_repeats_nothing() {
    let mut field = Field::start(Plan { workers: 2, ..Plan::default() }).await;
    field.publish();
    for (finished, worker) in [(180, 0), (360, 1), (540, 0), (720, 1)] {
        field.history.until_finished(finished).await;
        field.terminate_worker(worker).await;
    }
    let report = field.finish().await;
    report.assert();
    assert_eq!((&report.json["repeatedSameId"], &report.json["callsRepeated"]), (&0.into(), &0.into()));
}
