//! What all parts of a world share: the plan, randomness, time, rules and journal.

use std::{fmt, sync::Arc};

use fastrand::Rng;
use instant_connect_worker::{clock::Clock, random::Random};
use jiff::Timestamp;
use tokio::sync::Semaphore;

use super::{journal::Journal, life::CurrentLife};
use crate::{checker::Checker, plan::WorldPlan};

/// A worker that makes more steps than this loops.
const STEPS_MAX: u64 = 400_000;

/// What all parts of a world share.
pub(crate) struct Common {
    pub(crate) plan: WorldPlan,
    pub(crate) random: Rng,
    pub(super) worker_random: Random,
    pub(super) clock: Clock,
    pub(crate) checker: Checker,
    journal: Journal,
    pub(super) life: CurrentLife,
    /// Closed when a rule was broken.
    pub(crate) broken: Arc<Semaphore>,
}

impl Common {
    pub(super) fn new(
        plan: WorldPlan,
        random: Rng,
        worker_random: Random,
        checker: Checker,
        print: bool,
    ) -> Self {
        Self {
            plan,
            random,
            worker_random,
            clock: checker.rules.clock.clone(),
            checker,
            journal: Journal::new(print),
            life: CurrentLife::none(),
            broken: Arc::new(Semaphore::new(0)),
        }
    }

    /// The time of day in this world.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
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

    /// Passes the error of a rule to [`Common::broken`].
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
