//! The worker in a simulated world that a seed determines. Everything above the ports is real: supervisor, watchdog,
//! publisher, topology, stages, retries, settling, breakers, clients and ledger. The broker, the two APIs, the disk, time and randomness are simulated. Messages are delivered,
//! refused, lost and returned. Responses come late, wrong or never. Connections break. The worker dies at any of its
//! steps and starts again. With every step [`checker`] verifies that the contract still holds.
//!
//! Everything runs on one thread in paused time, so one seed is one history. `make simulate` runs many seeds. A seed
//! that fails prints its number and its last steps; `make simulate SEED=…` runs it again with all steps. Once
//! understood, the seed becomes a named test in [`tests`].
//!
//! Not simulated: lapin, HTTP and the ledger's file. Tests with live brokers, the sandbox and crashes cover these.
//!
//! # Layout
//! - [`plan`], [`events`]: choices that a seed makes in advance
//! - [`world`]: time, randomness, journal, the worker's lives
//! - [`broker`]: queues, connections, confirms
//! - [`network`], [`answers`]: the two APIs
//! - [`store`]: the disk under the ledger, [`time`]: the time of day
//! - [`worker`]: the real parts, connected to the simulation; [`tap`]: what its publisher replies
//! - [`troubles`]: faults that come and go
//! - [`fairness`]: events with faults of their own
//! - [`checker`], [`rules`]: the rules
//! - `single_consumer`, `requeued`, `one_at_a_time`, `third_stage`, in tests: one consumer by itself

mod answers;
mod broker;
mod checker;
mod events;
mod fairness;
pub(crate) mod network;
#[cfg(test)]
mod one_at_a_time;
mod plan;
#[cfg(test)]
mod requeued;
mod rules;
#[cfg(test)]
mod single_consumer;
pub(crate) mod store;
#[cfg(test)]
mod store_tests;
mod tap;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod third_stage;
mod time;
mod troubles;
mod worker;
mod world;

use std::{collections::BTreeMap, fmt, io, path::Path, sync::Arc, time::Duration};

use fastrand::Rng;
use jiff::Timestamp;
use lapin::BasicProperties;
use tokio::time::{Instant, sleep};

use self::{
    broker::{SESSIONS, SimulatedQueues, Stored},
    checker::{CheckedRules, Checker},
    events::Event,
    plan::WorldPlan,
    world::World,
};
use crate::{clock::Clock, telemetry::metrics::Metrics};

/// Longest time to finish once all faults are over.
const CALM_MAX: Duration = Duration::from_secs(2 * 3600);
/// Interval between checks that all work is done.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The result of one seed.
#[derive(Debug)]
pub(super) struct SimulatedHistory {
    /// The hash of all steps.
    hash: u64,
    /// Number of events by kind.
    counts: BTreeMap<&'static str, u64>,
}

/// A seed that broke a rule.
pub(super) struct BrokenRule {
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
fn run(seed: u64, folder: &Path, print: bool) -> Result<SimulatedHistory, BrokenRule> {
    run_with(seed, folder, print, None)
}

/// As [`run`]. `metrics` replace those that all worlds share.
fn run_with(
    seed: u64,
    folder: &Path,
    print: bool,
    metrics: Option<Metrics>,
) -> Result<SimulatedHistory, BrokenRule> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| failure(seed, &error))?;
    fastrand::seed(seed);
    runtime.block_on(live(seed, folder, print, metrics))
}

fn calm_world() -> World {
    let mut random = Rng::with_seed(0);
    let mut plan = WorldPlan::new(&mut random);
    plan.calm();
    let clock = Clock::system();
    let rules = CheckedRules {
        begin: clock.now(),
        clock,
        attempts: plan.attempts,
        total: Duration::MAX,
        lifetime: Duration::MAX,
        deliveries_max: plan.deliveries_max,
        first_delay: Duration::ZERO,
        delivery_timeout: plan.delivery_timeout,
    };
    World::new(plan, random, Checker::new(Vec::new(), rules), String::new(), false)
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
    if seed % 8 == 7 {
        plan.fill();
    }
    let events = events::events(&mut random, plan.events, plan.spread, begin);
    let token = folder.join("token");
    std::fs::write(&token, "token-0").map_err(|error| failure(seed, &error))?;
    let checker = checker_of(&plan, events.clone(), begin, clock);
    let world = World::new(plan.clone(), random, checker, "token-0".to_owned(), print);
    if let Some(metrics) = metrics {
        world.lock().metrics = metrics;
    }
    // In every third seed nacks are not counted, as in RabbitMQ 4.3.
    world.lock().broker.counts_nacks = !seed.is_multiple_of(3);
    world.lock().log(format_args!("{plan:?}"));
    for event in events {
        send(&world, &event);
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
    if seed % 4 == 1 && world.lock().broker.idle() {
        fairness::act(world, plan, seed).await;
    }
    if seed % 4 == 2 && world.lock().broker.idle() {
        fairness::cut_off(world, seed).await;
    }
    if seed % 8 == 3 && world.lock().broker.idle() {
        fairness::limited_late(world, seed).await;
    }
    until_idle(world, calm).await;
    let mut state = world.lock();
    let rule = if state.broker.idle() {
        state.checker.end()
    } else {
        Err(format!("work is left at the end: {}", state.broker.left()))
    };
    state.must(rule);
}

/// Waits until the broker has no work left, at most until [`CALM_MAX`] after `calm`.
async fn until_idle(world: &World, calm: Instant) {
    while !world.lock().broker.idle() && calm.elapsed() < CALM_MAX {
        sleep(CHECK_INTERVAL).await;
    }
}

/// Takes the history out of a world that has ended, and frees the world.
fn history_of(world: &World, seed: u64) -> Result<SimulatedHistory, BrokenRule> {
    let mut state = world.lock();
    let (_, hash) = state.history();
    let history = match state.checker.violation.take() {
        Some(rule) => Err(BrokenRule { seed, rule, steps: state.last_steps() }),
        None => Ok(SimulatedHistory { hash, counts: std::mem::take(&mut state.checker.counts) }),
    };
    // The queues hold references to the world. Without this, the memory of each world would leak.
    let queues = std::mem::replace(&mut state.broker, SimulatedQueues::empty());
    drop(state);
    drop(queues);
    history
}

/// Stores `event` in its queue, once for each time at which it is sent.
fn send(world: &World, event: &Event) {
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
            broker::store(&world, &mut state, SESSIONS, Stored::new(properties, event.body.into()));
        });
    }
}
