//! All kinds of trouble at once, in an order that a seed decides. Small as a test; `make chaos` runs it for long.

use std::{env, path::PathBuf, time::Duration};

use tokio::time::sleep;

use super::{
    field::{Field, Plan},
    relay::Flow,
};

/// Prints the seed of a random test, so that it can be run again.
pub(crate) fn random() -> fastrand::Rng {
    let seed = setting("CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("CHAOS_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// A number from the environment.
pub(crate) fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().filter(|text| !text.is_empty()).map(|text| text.parse().unwrap())
}

#[derive(Clone, Copy, Debug)]
enum Trouble {
    KillWorker,
    TerminateWorker,
    RestartBroker {
        crash: bool,
    },
    Network(&'static str, Flow, Flow),
    Cut,
    /// What it is, and the sandbox's rule; it ends by itself.
    Api(&'static str, &'static str),
    DiskAlarm,
    /// Redis stands still.
    Ledger,
}

/// What the sandbox does to requests; each ends by itself.
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

fn troubles(random: &mut fastrand::Rng, kills: u64, restarts: u64) -> Vec<Trouble> {
    let delay = Flow::Delay(Duration::from_millis(random.u64(5..100)));
    let network = [
        ("stall", Flow::Stall, Flow::Stall),
        ("drop to the broker", Flow::Drop, Flow::Pass),
        ("drop to the worker", Flow::Pass, Flow::Drop),
        ("stall to the broker", Flow::Stall, Flow::Pass),
        ("stall to the worker", Flow::Pass, Flow::Stall),
        ("delay", delay, delay),
    ];
    let mut troubles = vec![Trouble::DiskAlarm];
    troubles.extend((0..kills).map(|_| Trouble::KillWorker));
    troubles.extend((0..restarts).map(|n| Trouble::RestartBroker { crash: n % 2 == 1 }));
    troubles.extend((0..kills.div_ceil(5)).map(|_| Trouble::TerminateWorker));
    let others = usize::try_from(kills.div_ceil(2)).unwrap();
    troubles.extend(
        (0..others)
            .map(|n| network[n % network.len()])
            .map(|(what, up, down)| Trouble::Network(what, up, down)),
    );
    troubles.extend((0..others).map(|n| API[n % API.len()]).map(|(what, rule)| Trouble::Api(what, rule)));
    troubles.extend((0..kills.div_ceil(10)).map(|_| Trouble::Ledger));
    troubles.extend((0..others).map(|_| Trouble::Cut));
    random.shuffle(&mut troubles);
    troubles
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_of_every_kind_at_once() {
    let events = u32::try_from(setting("CHAOS_EVENTS").unwrap_or(2000)).unwrap();
    // One keeps a file ledger, several share a Redis.
    let workers = usize::try_from(setting("CHAOS_WORKERS").unwrap_or(2)).unwrap();
    let (kills, restarts) = (setting("CHAOS_KILLS").unwrap_or(5), setting("CHAOS_RESTARTS").unwrap_or(2));
    let mut random = random();
    let troubles = troubles(&mut random, kills, restarts);
    // A burst of one kind after the other may count several attempts against one event.
    let settings = vec![("retry.attempts", "20")];
    let plan = Plan { events, window: 300, workers, settings, nodes: 1, ..Plan::default() };
    let mut field = Field::start(plan).await;
    field.let_queues_settle().await;
    // Events are spread over all troubles, so that each meets some.
    let share = |n: usize| u32::try_from(u64::from(events) * n as u64 / (troubles.len() as u64 + 1)).unwrap();
    field.allow(share(1));
    field.publish();
    for (n, trouble) in (1..).zip(&troubles) {
        field.history.until_finished(share(n) * 9 / 10).await;
        field.allow(share(n + 1));
        // No trouble begins at a moment that the count of events decides.
        sleep(Duration::from_millis(random.u64(0..200))).await;
        make(*trouble, &mut field, &mut random).await;
    }
    let report = field.finish().await;
    if let Some(path) = env::var_os("CHAOS_REPORT").filter(|path| !path.is_empty()).map(PathBuf::from) {
        std::fs::write(path.with_extension("json"), format!("{:#}\n", report.json)).unwrap();
        std::fs::write(path.with_extension("md"), report.table()).unwrap();
    }
    report.assert();
}

async fn make(trouble: Trouble, field: &mut Field, random: &mut fastrand::Rng) {
    match trouble {
        Trouble::KillWorker => field.kill_worker(random.usize(..field.workers.len())).await,
        Trouble::TerminateWorker => field.terminate_worker(random.usize(..field.workers.len())).await,
        Trouble::RestartBroker { crash } => field.restart_broker(crash).await,
        Trouble::Network(what, up, down) => {
            field.history.disturbed(what);
            field.relay.set(up, down);
            // Shorter and longer than it takes to be noticed.
            sleep(Duration::from_millis(random.u64(300..6000))).await;
            field.relay.heal();
            field.history.healed(what);
        }
        Trouble::Cut => {
            field.history.disturbed("cut");
            field.relay.cut();
            field.history.healed("cut");
        }
        Trouble::Api(what, rule) => {
            field.history.disturbed(what);
            field.sandbox.fault(rule.parse().unwrap());
            field.history.healed(what);
        }
        Trouble::Ledger => {
            let Some(redis) = &field.redis else { return };
            field.history.disturbed("ledger stalls");
            redis.signal("STOP");
            sleep(Duration::from_millis(random.u64(300..4000))).await;
            redis.signal("CONT");
            field.history.healed("ledger stalls");
        }
        Trouble::DiskAlarm => {
            field.history.disturbed("disk alarm");
            field.nodes().disk_is_full(true).await;
            sleep(Duration::from_millis(random.u64(500..3000))).await;
            field.nodes().disk_is_full(false).await;
            field.history.healed("disk alarm");
        }
    }
}
