//! The worker in a world made of a seed: its stages, retry decisions, settling, breakers, clients and ledger are the real
//! ones; the broker, the two APIs, the disk, time and chance are simulated. Messages are delivered, refused, lost and
//! returned, answers come late, wrong or never, connections break, the worker dies at any of its steps and starts again;
//! with every step [`checker`] looks whether what the contract promises still holds.
//!
//! Everything runs on one thread in paused time, so that one seed is one history. `make simulate` runs many seeds; a
//! seed that fails prints itself and its last steps, `make simulate SEED=…` runs it again with all its steps, and once understood it becomes a test with a name in [`tests`].
//!
//! What is not simulated: lapin, HTTP and the ledger's file. Live brokers, the sandbox and crash tests stand for them.
//!
//! # Layout
//! - [`plan`], [`events`]: what a seed decides beforehand
//! - [`world`]: time, chance, journal, the worker's lives
//! - [`broker`], [`publishing`]: queues, connections, confirms
//! - [`network`], [`answers`]: the two APIs
//! - [`store`]: the disk under the ledger
//! - [`worker`]: how the real parts are put together
//! - [`troubles`]: what comes and goes
//! - [`fairness`]: events with trouble of their own
//! - [`checker`], [`rules`]: what must hold
//! - `alone`, `requeued`, `singly`, in tests: one consumer by itself

#[cfg(test)]
mod alone;
mod answers;
pub(crate) mod broker;
mod checker;
mod events;
mod fairness;
pub(crate) mod network;
mod plan;
mod publishing;
#[cfg(test)]
mod requeued;
mod rules;
#[cfg(test)]
mod singly;
pub(crate) mod store;
#[cfg(test)]
mod tests;
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
use crate::{clock, ledger::Ledger};

/// Longest that anything takes when all works again.
const CALM_MAX: Duration = Duration::from_secs(2 * 3600);
/// How often it is looked at whether all is done.
const LOOK: Duration = Duration::from_secs(5);

/// What a seed made of the worker.
#[derive(Debug)]
pub(super) struct SimulatedHistory {
    /// The hash of all steps.
    hash: u64,
    /// How much of what happened.
    counts: BTreeMap<&'static str, u64>,
}

/// A seed under which something does not hold.
pub(super) struct BrokenRule {
    seed: u64,
    rule: String,
    steps: String,
}

impl fmt::Debug for BrokenRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, rule, steps } = self;
        write!(f, "seed {seed}: {rule}\n{steps}make simulate SEED={seed} shows all its steps")
    }
}

/// Lives through `seed`, with the token file in `folder`.
fn run(seed: u64, folder: &Path, print: bool) -> Result<SimulatedHistory, BrokenRule> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| failure(seed, &error))?;
    fastrand::seed(seed);
    runtime.block_on(live(seed, folder, print))
}

/// A connection in a world where nothing goes wrong, for tests of single parts.
pub(crate) async fn calm() -> broker::SimulatedConnection {
    let world = calm_world();
    broker::SimulatedConnection::open(&world.begin_life())
        .await
        .unwrap_or_else(|error| unreachable!("{error}"))
}

fn calm_world() -> World {
    let mut random = Rng::with_seed(0);
    let mut plan = WorldPlan::new(&mut random);
    plan.calm();
    let rules = CheckedRules {
        begin: clock::now(),
        attempts: plan.attempts,
        total: Duration::MAX,
        lifetime: Duration::MAX,
        deliveries_max: plan.deliveries_max,
        first_delay: Duration::ZERO,
        delivery_timeout: plan.delivery_timeout,
    };
    World::new(plan, random, Checker::new(Vec::new(), rules), String::new(), false)
}

/// A ledger in a world where nothing goes wrong but its disk, while the switch says so.
pub(crate) fn ledger() -> (Ledger, impl Fn(bool)) {
    let world = calm_world();
    let ledger = Ledger::simulated(store::SimulatedStore::new(world.begin_life()));
    (ledger, move |out| world.lock().disk.out = out)
}

fn failure(seed: u64, error: &io::Error) -> BrokenRule {
    BrokenRule { seed, rule: error.to_string(), steps: String::new() }
}

async fn live(seed: u64, folder: &Path, print: bool) -> Result<SimulatedHistory, BrokenRule> {
    let begin: Timestamp = "2026-11-21T12:00:00.25Z".parse().unwrap_or(Timestamp::UNIX_EPOCH);
    let _clock = clock::simulated::begin(begin);
    let mut random = Rng::with_seed(seed);
    let mut plan = WorldPlan::new(&mut random);
    if seed % 8 == 7 {
        plan.fill();
    }
    let events = events::events(&mut random, plan.events, plan.spread, begin);
    let rules = CheckedRules {
        begin,
        attempts: plan.attempts,
        total: Duration::from_secs(3600),
        lifetime: Duration::from_secs(3600),
        deliveries_max: plan.deliveries_max,
        first_delay: plan.delays.first().copied().unwrap_or_default(),
        delivery_timeout: plan.delivery_timeout,
    };
    let token = folder.join("token");
    std::fs::write(&token, "token-0").map_err(|error| failure(seed, &error))?;
    let mut checker = Checker::new(events.clone(), rules.clone());
    // What was under way when the breaker opened, and its probes; or some calls for each of so few events that it does not open.
    checker.ledger_fails = plan.ledger > 0.0 || plan.ledger_outages > 0;
    checker.outage_calls_max = 36 + 2 * plan.concurrency;
    // A stage that has no outcome in time is a failure, too.
    checker.breaker_failures = if plan.full { 0 } else { worker::limits(&plan).breaker.failures as usize };
    let world = World::new(plan.clone(), random, checker, "token-0".to_owned(), print);
    // As RabbitMQ 4.3 does it.
    world.lock().broker.counts_nacks = !seed.is_multiple_of(3);
    world.lock().log(format_args!("{plan:?}"));
    for event in events {
        send(&world, &event);
    }
    let broken = Arc::clone(&world.lock().broken);
    let story = async {
        troubles::all(&world, &plan, &rules, &token).await;
        let calm = Instant::now();
        while !world.lock().broker.idle() && calm.elapsed() < CALM_MAX {
            sleep(LOOK).await;
        }
        // It takes as long as all before.
        if seed % 4 == 1 && world.lock().broker.idle() {
            fairness::act(&world, &plan, seed).await;
        }
        if seed % 4 == 2 && world.lock().broker.idle() {
            fairness::cut_off(&world, seed).await;
        }
        if seed % 8 == 3 && world.lock().broker.idle() {
            fairness::limited_late(&world, seed).await;
        }
        while !world.lock().broker.idle() && calm.elapsed() < CALM_MAX {
            sleep(LOOK).await;
        }
        let mut state = world.lock();
        let rule = if state.broker.idle() {
            state.checker.end()
        } else {
            Err(format!("no end: {}", state.broker.left()))
        };
        state.must(rule);
    };
    tokio::select! {
        biased;
        // Closed, never given.
        _ = broken.acquire() => {}
        () = story => {}
    }
    let mut state = world.lock();
    let (_, hash) = state.history();
    let history = match state.checker.violation.take() {
        Some(rule) => Err(BrokenRule { seed, rule, steps: state.last_steps() }),
        None => Ok(SimulatedHistory { hash, counts: std::mem::take(&mut state.checker.counts) }),
    };
    // What it delivers leads back to the world, which would stay for ever, and many seeds are run in one process.
    let queues = std::mem::replace(&mut state.broker, SimulatedQueues::new(&[]));
    drop(state);
    drop(queues);
    history
}

/// Puts `event` into its queue, each time that it is sent.
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
                let seconds = u64::try_from(clock::now().as_second()).unwrap_or_default();
                properties = properties.with_timestamp(seconds);
            }
            state.log(format_args!("{} is sent", event.session));
            state.checker.sent(&event.body);
            broker::store(&world, &mut state, SESSIONS, Stored::new(properties, event.body.into()));
        });
    }
}
