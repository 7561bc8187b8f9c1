//! The history of one seed, from its first event to its last.

use std::{collections::BTreeMap, fmt, io, path::Path, sync::Arc, time::Duration};

use fastrand::Rng;
use instant_connect_worker::{clock::Clock, random::Random, telemetry::metrics::Metrics};
use jiff::Timestamp;
use lapin::BasicProperties;
use tokio::time::{Instant, sleep};

use super::{
    broker::{SESSIONS, SimulatedQueues, Stored},
    checker::{CheckedRules, Checker},
    client,
    events::{self, Event},
    fairness,
    plan::{SendersPlan, WorldPlan},
    time, troubles, worker,
    world::World,
};

/// Longest time to finish once all faults are over.
pub(crate) const CALM_MAX: Duration = Duration::from_secs(2 * 3600);
/// From this seed on, the worker sends the guest links itself, and takes receipts and start requests.
pub(crate) const WITH_SENDERS: u64 = 1_000_000_000;
/// Interval between checks that all work is done.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The result of one seed.
#[derive(Debug)]
pub(crate) struct SimulatedHistory {
    /// The hash of all steps.
    pub(crate) hash: u64,
    /// Number of events by kind.
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

/// A seed that broke a rule.
pub(crate) struct BrokenRule {
    seed: u64,
    rule: String,
    steps: String,
}

impl fmt::Debug for BrokenRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, rule, steps } = self;
        write!(f, "seed {seed}: {rule}\n{steps}make simulate SEED={seed} prints all its steps")
    }
}

/// Runs the history of `seed`, with the token file in `folder`.
pub(crate) fn run(seed: u64, folder: &Path, print: bool) -> Result<SimulatedHistory, BrokenRule> {
    run_with(seed, folder, print, None)
}

/// As [`run`]. `metrics` replace those that all worlds share.
pub(crate) fn run_with(
    seed: u64,
    folder: &Path,
    print: bool,
    metrics: Option<Metrics>,
) -> Result<SimulatedHistory, BrokenRule> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| failure(seed, &error))?;
    runtime.block_on(live(seed, folder, print, metrics))
}

fn failure(seed: u64, error: &io::Error) -> BrokenRule {
    BrokenRule { seed, rule: error.to_string(), steps: String::new() }
}

async fn live(
    seed: u64,
    folder: &Path,
    print: bool,
    metrics: Option<Metrics>,
) -> Result<SimulatedHistory, BrokenRule> {
    let begin: Timestamp = "2026-11-21T12:00:00.25Z".parse().unwrap_or(Timestamp::UNIX_EPOCH);
    let clock = time::clock_at(begin);
    let mut random = Rng::with_seed(seed);
    let mut plan = WorldPlan::new(&mut random);
    plan.senders = (seed >= WITH_SENDERS).then(|| SendersPlan::new(seed));
    if seed % 8 == 7 {
        plan.fill();
    }
    let mut events = events::events(&mut random, plan.events, plan.spread, begin);
    if let Some(senders) = &plan.senders {
        for event in events.iter_mut().step_by(senders.over_http) {
            *event = event.clone().over_http(worker::CLIENT);
        }
    }
    let token = folder.join("token");
    std::fs::write(&token, "token-0").map_err(|error| failure(seed, &error))?;
    let checker = checker_of(&plan, events.clone(), begin, clock);
    let world =
        World::new(plan.clone(), random, Random::with_seed(seed), checker, "token-0".to_owned(), print);
    if let Some(metrics) = metrics {
        world.lock().metrics = metrics;
    }
    // In every third seed nacks are not counted, as in RabbitMQ 4.3.
    world.lock().broker().set_counts_nacks(!seed.is_multiple_of(3));
    world.lock().log(format_args!("{plan:?}"));
    for event in events {
        if event.key.is_some() { client::send(&world, &event) } else { send(&world, &event) }
    }
    let broken = Arc::clone(&world.lock().broken);
    tokio::select! {
        biased;
        // The semaphore has no permits; it is only closed.
        _ = broken.acquire() => {}
        () = story(&world, &plan, &token, seed) => {}
    }
    history_of(&world, seed)
}

/// A checker with the limits that follow from `plan`.
fn checker_of(plan: &WorldPlan, events: Vec<Event>, begin: Timestamp, clock: Clock) -> Checker {
    let rules = CheckedRules {
        clock,
        begin,
        attempts: plan.attempts,
        total: Duration::from_secs(3600),
        lifetime: Duration::from_secs(3600),
        deliveries_max: plan.deliveries_max,
        first_delay: plan.delays.first().copied().unwrap_or_default(),
        delivery_timeout: plan.delivery_timeout,
        senders: plan.senders.clone(),
    };
    let mut checker = Checker::new(events, rules);
    // Calls in progress when the breaker opens, plus its probes; or a few calls for too few events to open it.
    checker.ledger_fails = plan.ledger > 0.0 || plan.ledger_outages > 0;
    checker.outage_calls_max = 36 + 2 * plan.concurrency;
    // A stage that exceeds its time limit counts as a failure too.
    checker.breaker_failures = if plan.full { 0 } else { worker::limits(plan).breaker.failures as usize };
    checker
}

/// Runs the world through all faults, then checks that all work is done.
async fn story(world: &World, plan: &WorldPlan, token: &Path, seed: u64) {
    let rules = world.lock().checker.rules.clone();
    troubles::all(world, plan, &rules, token).await;
    let calm = Instant::now();
    until_idle(world, calm).await;
    // As long as everything before, so only for some seeds.
    if seed % 4 == 1 && world.lock().broker().idle() {
        fairness::act(world, plan, seed).await;
    }
    if seed % 4 == 2 && world.lock().broker().idle() {
        fairness::cut_off(world, seed).await;
    }
    if seed % 8 == 3 && world.lock().broker().idle() {
        fairness::limited_late(world, seed).await;
    }
    until_idle(world, calm).await;
    let mut state = world.lock();
    let rule = if state.requests > 0 {
        Err(format!("{} start requests are never answered", state.requests))
    } else if state.broker().idle() {
        state.checker.end()
    } else {
        Err(format!("work is left at the end: {}", state.broker().left()))
    };
    state.must(rule);
}

/// Waits until the broker has no work left and no start request waits for its answer, at most until [`CALM_MAX`] after `calm`.
async fn until_idle(world: &World, calm: Instant) {
    let is_idle = || {
        let mut state = world.lock();
        state.requests == 0 && state.broker().idle()
    };
    while !is_idle() && calm.elapsed() < CALM_MAX {
        sleep(CHECK_INTERVAL).await;
    }
}

/// Takes the history out of a world that has ended, and frees the world.
fn history_of(world: &World, seed: u64) -> Result<SimulatedHistory, BrokenRule> {
    let mut state = world.lock();
    let hash = state.hash();
    let history = match state.checker.violation.take() {
        Some(rule) => Err(BrokenRule { seed, rule, steps: state.last_steps() }),
        None => Ok(SimulatedHistory { hash, counts: std::mem::take(&mut state.checker.counts) }),
    };
    // The queues hold references to the world. Without this, the memory of each world would leak.
    let queues = state.replace_broker(SimulatedQueues::empty());
    let ingress = state.ingress.take();
    drop(state);
    drop((queues, ingress));
    history
}

/// Stores `event` in its queue, once for each time at which it is sent.
pub(crate) fn send(world: &World, event: &Event) {
    for at in event.sent.clone() {
        let (world, event) = (world.clone(), event.clone());
        tokio::spawn(async move {
            sleep(at).await;
            let mut state = world.lock();
            let mut properties = BasicProperties::default().with_content_type(event.content_type.into());
            if let Some(id) = &event.message_id {
                properties = properties.with_message_id(id.as_str().into());
            }
            if state.random.bool() {
                let seconds = u64::try_from(state.now().as_second()).unwrap_or_default();
                properties = properties.with_timestamp(seconds);
            }
            state.log(format_args!("{} is sent", event.session));
            state.checker.sent(&event.body);
            state.broker().store(&world, SESSIONS, Stored::new(properties, event.body.into()));
        });
    }
}
