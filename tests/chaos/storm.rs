//! All kinds of faults together, in an order that a seed determines. Short as a test; `make chaos` makes it long.

use std::{env, path::PathBuf, time::Duration};

use testkit::relay::Flow;
use tokio::time::{sleep, timeout};

use super::testbed::{Plan, Testbed};

/// Maximum wait for a message during which a worker is killed.
const SEND_LIMIT: Duration = Duration::from_secs(1);

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
    /// The role of the worker, one of [`roles`].
    KillWorker(&'static str),
    TerminateWorker(&'static str),
    RestartBroker {
        crash: bool,
    },
    Network(&'static str, Flow, Flow),
    Cut,
    /// The description and the sandbox's rule; the fault ends by itself.
    Api(&'static str, &'static str),
    /// The same for the fake of Webex Connect, with rules that are separated by spaces.
    Connect(&'static str, &'static str),
    /// Webex Connect refuses connections.
    ConnectDown,
    DiskAlarm,
    /// Redis is suspended.
    Ledger,
}

/// Faults of the sandbox; each ends by itself.
const API: [(&str, &str); 8] = [
    ("Webex responds with 503", "any:status=503,times=20"),
    ("Webex responds with 429 and Retry-After: 1", "any:status=429,retry-after=1,times=10"),
    ("Instant Connect does not respond", "joseencrypt:hang,times=3"),
    ("Messages does not respond", "messages:hang,times=2"),
    ("Webex closes connections", "any:cut=before,times=8"),
    ("Instant Connect's response is cut", "joseencrypt:cut=body,times=5"),
    ("Messages' response is cut", "messages:cut=body,times=5"),
    ("Instant Connect responds with garbage", "joseencrypt:garbage,times=4"),
];

/// Faults of Webex Connect; each ends by itself.
const CONNECT: [(&str, &str); 12] = [
    (
        "Webex Connect's response is cut, without receipts",
        "any:cut=after,times=6 receipts:receipt=drop,times=12",
    ),
    ("Webex Connect's response is cut (SMS)", "sms:cut=after,times=6"),
    ("Webex Connect's response is cut (WhatsApp)", "whatsapp:cut=body,times=6"),
    ("Webex Connect sends no receipt", "receipts:receipt=drop,times=6"),
    ("Webex Connect closes connections", "any:cut=before,times=4"),
    ("Webex Connect responds with 503", "any:status=503,times=8"),
    ("Webex Connect responds with 429 and Retry-After: 1", "any:status=429,retry-after=1,times=6"),
    ("Webex Connect is slow", "any:delay=1500ms,times=20"),
    ("Webex Connect responds with garbage", "any:garbage,times=4"),
    ("Webex Connect refuses with a code", "any:refuse=7020,times=6"),
    ("Webex Connect does not respond", "any:hang,times=2"),
    ("Webex Connect's receipts are late", "receipts:delay=3s,times=20"),
];

/// The numbers of faults.
struct Numbers {
    events: u32,
    kills: u64,
    restarts: u64,
    /// Workers are killed first. Their claims last for 30 s, so a run that ends with a kill is that much longer.
    kills_first: bool,
}

impl Numbers {
    /// The numbers from the environment; otherwise the given ones.
    fn given_or(events: u64, kills: u64, restarts: u64) -> Self {
        let given = |name, default| setting(name).unwrap_or(default);
        Self {
            events: u32::try_from(given("CHAOS_EVENTS", events)).unwrap(),
            kills: given("CHAOS_KILLS", kills),
            restarts: given("CHAOS_RESTARTS", restarts),
            kills_first: false,
        }
    }
}

/// The roles of the workers of a run.
const fn roles(over_http: bool) -> &'static [&'static str] {
    if over_http { &["stages", "ingress"] } else { &["all"] }
}

fn faults(random: &mut fastrand::Rng, numbers: &Numbers, over_http: bool) -> Vec<StormFault> {
    let Numbers { kills, restarts, .. } = *numbers;
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
    let mut roles = roles(over_http).iter().copied().cycle();
    faults.extend(roles.by_ref().map(StormFault::KillWorker).take(usize::try_from(kills).unwrap()));
    faults.extend((0..restarts).map(|n| StormFault::RestartBroker { crash: n % 2 == 1 }));
    let [fifth, others] = [5, 2].map(|part| usize::try_from(kills.div_ceil(part)).unwrap());
    faults.extend(roles.map(StormFault::TerminateWorker).take(fifth));
    faults.extend(
        (0..others)
            .map(|n| network[n % network.len()])
            .map(|(what, up, down)| StormFault::Network(what, up, down)),
    );
    faults.extend((0..others).map(|n| API[n % API.len()]).map(|(what, rule)| StormFault::Api(what, rule)));
    faults.extend((0..kills.div_ceil(10)).map(|_| StormFault::Ledger));
    faults.extend((0..others).map(|_| StormFault::Cut));
    if over_http {
        let connect = (0..2 * others).map(|n| CONNECT[n % CONNECT.len()]);
        faults.extend(connect.map(|(what, rule)| StormFault::Connect(what, rule)));
        faults.extend((0..kills.div_ceil(10)).map(|_| StormFault::ConnectDown));
    }
    random.shuffle(&mut faults);
    if numbers.kills_first {
        faults.sort_by_key(|fault| !matches!(fault, StormFault::KillWorker(_)));
    }
    faults
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_of_every_kind_at_once() {
    // One worker uses a file ledger; several share a Redis.
    let workers = usize::try_from(setting("CHAOS_WORKERS").unwrap_or(2)).unwrap();
    run(Numbers::given_or(2000, 5, 2), Plan { workers, ..Plan::default() }, "").await;
}

/// Requests to two ingresses become messages through Webex Connect, whose receipts come back to the ingresses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_over_http_of_every_kind_at_once() {
    let plan = Plan { workers: 2, over_http: true, ..Plan::default() };
    let kills_first = setting("CHAOS_EVENTS").is_none();
    run(Numbers { kills_first, ..Numbers::given_or(300, 2, 1) }, plan, "-edges").await;
}

/// Runs `plan` with faults of all kinds. The reports are files with the name of `CHAOS_REPORT` and `suffix`.
async fn run(numbers: Numbers, plan: Plan, suffix: &str) {
    let mut random = random();
    let faults = faults(&mut random, &numbers, plan.over_http);
    let events = numbers.events;
    // Consecutive faults may count several attempts against one event.
    let settings = vec![("retry.attempts", "20")];
    let mut testbed = Testbed::start(Plan { events, window: 300, settings, nodes: 1, ..plan }).await;
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
    if let Some(path) = env::var_os("CHAOS_REPORT").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(format!("{}{suffix}", path.to_string_lossy()));
        std::fs::write(path.with_extension("json"), format!("{:#}\n", report.json)).unwrap();
        std::fs::write(path.with_extension("md"), report.table()).unwrap();
    }
    report.assert();
}

/// The number of a random worker with this role.
fn any_of(role: &str, testbed: &Testbed, random: &mut fastrand::Rng) -> usize {
    let workers = testbed.slots.iter().enumerate().filter(|(_, slot)| slot.role == role);
    random.choice(workers.map(|(index, _)| index).collect::<Vec<_>>()).unwrap()
}

/// Waits for the next message to a guest, if one comes soon, so that a kill happens between a call and its record.
async fn until_a_send(testbed: &Testbed) {
    let Some(edges) = &testbed.edges else { return };
    let sends = edges.connect.counts().sends;
    _ = timeout(SEND_LIMIT, edges.connect.until(|connect| connect.counts().sends > sends)).await;
}

async fn inject(fault: StormFault, testbed: &mut Testbed, random: &mut fastrand::Rng) {
    match fault {
        StormFault::KillWorker(role) => {
            until_a_send(testbed).await;
            testbed.kill_worker(any_of(role, testbed, random)).await;
        }
        StormFault::TerminateWorker(role) => {
            testbed.terminate_worker(any_of(role, testbed, random)).await;
        }
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
        StormFault::Connect(what, rule) => {
            let Some(edges) = &testbed.edges else { return };
            testbed.history.disturbed(what);
            rule.split(' ').for_each(|rule| edges.connect.fault(rule.parse().unwrap()));
            testbed.history.healed(what);
        }
        StormFault::ConnectDown => {
            let Some(edges) = &testbed.edges else { return };
            testbed.history.disturbed("Webex Connect is down");
            edges.connect.refuse_connections(true).await;
            sleep(Duration::from_millis(random.u64(300..3000))).await;
            edges.connect.refuse_connections(false).await;
            testbed.history.healed("Webex Connect is down");
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
