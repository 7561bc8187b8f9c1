//! All kinds of faults together, in an order that a seed determines. Short as a test; `make chaos` makes it long.

use std::{env, path::PathBuf, time::Duration};

use testkit::relay::Flow;
use tokio::time::sleep;

use super::testbed::{Plan, Testbed};

/// A random generator. Prints its seed, so that the test can be repeated.
pub(crate) fn random() -> fastrand::Rng {
    let seed = setting("CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("CHAOS_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// Reads a number from the environment.
pub(crate) fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().filter(|text| !text.is_empty()).map(|text| text.parse().unwrap())
}

#[derive(Clone, Copy, Debug)]
enum StormFault {
    KillWorker,
    TerminateWorker,
    RestartBroker {
        crash: bool,
    },
    Network(&'static str, Flow, Flow),
    Cut,
    /// The description and the sandbox's rule; the fault ends by itself.
    Api(&'static str, &'static str),
    DiskAlarm,
    /// Redis is suspended.
    Ledger,
}

/// Faults of the sandbox; each ends by itself.
const API: [(&str, &str); 8] = [
    ("Webex answers 503", "any:status=503,times=20"),
    ("Webex answers 429 with Retry-After: 1", "any:status=429,retry-after=1,times=10"),
    ("Instant Connect does not answer", "joseencrypt:hang,times=3"),
    ("Messages does not answer", "messages:hang,times=2"),
    ("Webex closes connections", "any:cut=before,times=8"),
    ("Instant Connect's answer is cut", "joseencrypt:cut=body,times=5"),
    ("Messages' answer is cut", "messages:cut=body,times=5"),
    ("Instant Connect answers garbage", "joseencrypt:garbage,times=4"),
];

fn faults(random: &mut fastrand::Rng, kills: u64, restarts: u64) -> Vec<StormFault> {
    let delay = Flow::Delay(Duration::from_millis(random.u64(5..100)));
    let network = [
        ("stall", Flow::Stall, Flow::Stall),
        ("drop to the broker", Flow::Drop, Flow::Pass),
        ("drop to the worker", Flow::Pass, Flow::Drop),
        ("stall to the broker", Flow::Stall, Flow::Pass),
        ("stall to the worker", Flow::Pass, Flow::Stall),
        ("delay", delay, delay),
    ];
    let mut faults = vec![StormFault::DiskAlarm];
    faults.extend((0..kills).map(|_| StormFault::KillWorker));
    faults.extend((0..restarts).map(|n| StormFault::RestartBroker { crash: n % 2 == 1 }));
    faults.extend((0..kills.div_ceil(5)).map(|_| StormFault::TerminateWorker));
    let others = usize::try_from(kills.div_ceil(2)).unwrap();
    faults.extend(
        (0..others)
            .map(|n| network[n % network.len()])
            .map(|(what, up, down)| StormFault::Network(what, up, down)),
    );
    faults.extend((0..others).map(|n| API[n % API.len()]).map(|(what, rule)| StormFault::Api(what, rule)));
    faults.extend((0..kills.div_ceil(10)).map(|_| StormFault::Ledger));
    faults.extend((0..others).map(|_| StormFault::Cut));
    random.shuffle(&mut faults);
    faults
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_of_every_kind_at_once() {
    let events = u32::try_from(setting("CHAOS_EVENTS").unwrap_or(2000)).unwrap();
    // One worker uses a file ledger; several share a Redis.
    let workers = usize::try_from(setting("CHAOS_WORKERS").unwrap_or(2)).unwrap();
    let (kills, restarts) = (setting("CHAOS_KILLS").unwrap_or(5), setting("CHAOS_RESTARTS").unwrap_or(2));
    let mut random = random();
    let faults = faults(&mut random, kills, restarts);
    // Consecutive faults may count several attempts against one event.
    let settings = vec![("retry.attempts", "20")];
    let plan = Plan { events, window: 300, workers, settings, nodes: 1, ..Plan::default() };
    let mut testbed = Testbed::start(plan).await;
    testbed.let_queues_settle().await;
    // The events are spread over all faults, so that each fault affects some.
    let share = |n: usize| u32::try_from(u64::from(events) * n as u64 / (faults.len() as u64 + 1)).unwrap();
    testbed.allow(share(1));
    testbed.publish();
    for (n, fault) in (1..).zip(&faults) {
        testbed.history.until_finished(share(n) * 9 / 10).await;
        testbed.allow(share(n + 1));
        // A random delay, so that the fault does not start exactly at a number of events.
        sleep(Duration::from_millis(random.u64(0..200))).await;
        inject(*fault, &mut testbed, &mut random).await;
    }
    let report = testbed.finish().await;
    if let Some(path) = env::var_os("CHAOS_REPORT").filter(|path| !path.is_empty()).map(PathBuf::from) {
        std::fs::write(path.with_extension("json"), format!("{:#}\n", report.json)).unwrap();
        std::fs::write(path.with_extension("md"), report.table()).unwrap();
    }
    report.assert();
}

async fn inject(fault: StormFault, testbed: &mut Testbed, random: &mut fastrand::Rng) {
    match fault {
        StormFault::KillWorker => testbed.kill_worker(random.usize(..testbed.workers.len())).await,
        StormFault::TerminateWorker => testbed.terminate_worker(random.usize(..testbed.workers.len())).await,
        StormFault::RestartBroker { crash } => testbed.restart_broker(crash).await,
        StormFault::Network(what, up, down) => {
            testbed.history.disturbed(what);
            testbed.relay.set(up, down);
            // Shorter or longer than the detection takes.
            sleep(Duration::from_millis(random.u64(300..6000))).await;
            testbed.relay.heal();
            testbed.history.healed(what);
        }
        StormFault::Cut => {
            testbed.history.disturbed("cut");
            testbed.relay.cut();
            testbed.history.healed("cut");
        }
        StormFault::Api(what, rule) => {
            testbed.history.disturbed(what);
            testbed.sandbox.fault(rule.parse().unwrap());
            testbed.history.healed(what);
        }
        StormFault::Ledger => {
            let Some(redis) = &testbed.redis else { return };
            testbed.history.disturbed("ledger stalls");
            redis.signal("STOP");
            sleep(Duration::from_millis(random.u64(300..4000))).await;
            redis.signal("CONT");
            testbed.history.healed("ledger stalls");
        }
        StormFault::DiskAlarm => {
            testbed.history.disturbed("disk alarm");
            testbed.nodes[0].disk_is_full(true).await;
            sleep(Duration::from_millis(random.u64(500..3000))).await;
            testbed.nodes[0].disk_is_full(false).await;
            testbed.history.healed("disk alarm");
        }
    }
}
