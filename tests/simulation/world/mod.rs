//! The world that all parts of the simulation share: randomness, time, the rules and the journal, and the parts
//! themselves.
//!
//! - `journal`: the steps of a history
//! - `life`: the worker's lives

mod journal;
mod life;

use std::{
    fmt,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fastrand::Rng;
use instant_connect_worker::{clock::Clock, stages, telemetry::metrics::Metrics};
use jiff::Timestamp;
use tokio::{sync::Semaphore, time::sleep};

pub(crate) use self::life::Life;
use self::{journal::Journal, life::CurrentLife};
use crate::{
    broker::SimulatedQueues, checker::Checker, network::Servers, plan::WorldPlan, storage::SimulatedDisk,
    worker,
};

/// The metrics of all worlds, because creating them takes longer than many worlds.
static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    Metrics::new(stages::ALL, &[]).unwrap_or_else(|error| unreachable!("the metrics are constant: {error}"))
});

/// A worker that makes more steps than this loops.
const STEPS_MAX: u64 = 400_000;

/// The world, shared by all its parts. Everything runs on one thread.
#[derive(Clone)]
pub(crate) struct World(Arc<Mutex<WorldState>>);

/// The world's state.
pub(crate) struct WorldState {
    pub(crate) plan: WorldPlan,
    pub(crate) random: Rng,
    pub(crate) broker: SimulatedQueues,
    pub(crate) servers: Servers,
    pub(crate) disk: SimulatedDisk,
    pub(crate) checker: Checker,
    /// The metrics of all lives of the worker. No check depends on them.
    pub(crate) metrics: Metrics,
    journal: Journal,
    life: CurrentLife,
    /// Closed when a rule was broken.
    pub(crate) broken: Arc<Semaphore>,
}

impl World {
    pub(crate) fn new(plan: WorldPlan, random: Rng, checker: Checker, token: String, print: bool) -> Self {
        Self(Arc::new(Mutex::new(WorldState {
            broker: worker::queues_of(stages::ALL, &plan.delays),
            plan,
            random,
            servers: Servers::new(token),
            disk: SimulatedDisk::new(checker.rules.clock.clone()),
            checker,
            metrics: METRICS.clone(),
            journal: Journal::new(print),
            life: CurrentLife::none(),
            broken: Arc::new(Semaphore::new(0)),
        })))
    }

    /// The time of day in this world.
    pub(crate) fn clock(&self) -> Clock {
        self.lock().checker.rules.clock.clone()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, WorldState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A delay as networks and disks cause it: mostly none or short, sometimes long.
    pub(crate) async fn wait(&self) {
        let wait = {
            let random = &mut self.lock().random;
            match random.u32(..100) {
                0..=49 => 0,
                50..=97 => random.u64(1..40),
                _ => random.u64(40..3000),
            }
        };
        if wait > 0 {
            sleep(Duration::from_millis(wait)).await;
        }
    }
}

impl WorldState {
    /// The time of day in this world.
    pub(crate) fn now(&self) -> Timestamp {
        self.checker.rules.clock.now()
    }

    /// The number of the worker's life that runs now; `None` between two.
    pub(crate) fn life(&self) -> Option<u64> {
        self.life.number()
    }

    /// Writes a step to the journal.
    pub(crate) fn log(&mut self, step: fmt::Arguments<'_>) {
        if self.journal.write(step) == STEPS_MAX {
            self.broken(format_args!("{STEPS_MAX} steps without an end"));
        }
    }

    /// Records a broken rule. The simulation reports the first one.
    pub(crate) fn broken(&mut self, rule: fmt::Arguments<'_>) {
        if self.checker.violation.is_none() {
            self.checker.violation = Some(rule.to_string());
            self.log(format_args!("BROKEN: {rule}"));
            self.broken.close();
        }
    }

    /// Passes the error of a rule to [`WorldState::broken`].
    pub(crate) fn must(&mut self, rule: Result<(), String>) {
        if let Err(broken) = rule {
            self.broken(format_args!("{broken}"));
        }
    }

    pub(crate) fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.random.f64() < share
    }

    /// The hash of all steps so far.
    pub(crate) fn hash(&self) -> u64 {
        self.journal.hash()
    }

    /// The last steps as text.
    pub(crate) fn last_steps(&self) -> String {
        self.journal.last_steps()
    }
}
