//! State that all parts of the simulation share: randomness, time, the journal, and the worker's current life.

use std::{
    collections::VecDeque,
    fmt,
    future::pending,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fastrand::Rng;
use instant_connect_worker::{clock::Clock, stages, telemetry::metrics::Metrics};
use jiff::Timestamp;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use super::{
    broker::SimulatedQueues, checker::Checker, network::Servers, plan::WorldPlan, storage::SimulatedDisk,
    worker,
};

/// The metrics of all worlds, because creating them takes longer than many worlds.
static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    Metrics::new(stages::ALL, &[]).unwrap_or_else(|error| unreachable!("the metrics are constant: {error}"))
});

/// Number of the last steps that a failure shows.
const SHOWN: usize = 80;
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
    life: u64,
    /// Closed when the current life is over.
    death: Arc<Semaphore>,
    /// Closed when a rule was broken.
    pub(crate) broken: Arc<Semaphore>,
}

/// The journal: the last steps as text, all steps as a hash.
struct Journal {
    begun: Instant,
    steps: u64,
    hash: DefaultHasher,
    last: VecDeque<String>,
    print: bool,
}

/// One life of the worker, from its start to its crash or end. Actions of a dead worker never complete.
#[derive(Clone)]
pub(crate) struct Life {
    pub(crate) world: World,
    number: u64,
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Life({})", self.number)
    }
}

impl World {
    pub(crate) fn new(plan: WorldPlan, random: Rng, checker: Checker, token: String, print: bool) -> Self {
        let journal = Journal {
            begun: Instant::now(),
            steps: 0,
            hash: DefaultHasher::new(),
            last: VecDeque::new(),
            print,
        };
        Self(Arc::new(Mutex::new(WorldState {
            broker: worker::queues_of(stages::ALL, &plan.delays),
            plan,
            random,
            servers: Servers::new(token),
            disk: SimulatedDisk::new(checker.rules.clock.clone()),
            checker,
            metrics: METRICS.clone(),
            journal,
            life: 0,
            death: Arc::new(Semaphore::new(0)),
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

    /// Starts a new life of the worker.
    pub(crate) fn begin_life(&self) -> Life {
        let mut state = self.lock();
        state.life += 1;
        state.death = Arc::new(Semaphore::new(0));
        let number = state.life;
        state.log(format_args!("worker {number} starts"));
        drop(state);
        Life { world: self.clone(), number }
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
        (!self.death.is_closed()).then_some(self.life)
    }

    /// Writes a step to the journal.
    pub(crate) fn log(&mut self, step: fmt::Arguments<'_>) {
        let journal = &mut self.journal;
        journal.steps += 1;
        let line = format!("{:>10.3} {step}", journal.begun.elapsed().as_secs_f64());
        line.hash(&mut journal.hash);
        if journal.print {
            print(&line);
        }
        journal.last.push_back(line);
        if journal.last.len() > SHOWN {
            journal.last.pop_front();
        }
        if journal.steps == STEPS_MAX {
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

    pub(crate) fn history(&self) -> (u64, u64) {
        (self.journal.steps, self.journal.hash.finish())
    }

    pub(crate) fn last_steps(&self) -> String {
        self.journal.last.iter().fold(String::new(), |text, line| text + line + "\n")
    }
}

#[allow(clippy::print_stderr, reason = "printed on request, to find a bug")]
fn print(line: &str) {
    eprintln!("{line}");
}

impl Life {
    pub(crate) fn is_over(&self) -> bool {
        self.world.lock().life != self.number || self.world.lock().death.is_closed()
    }

    /// Resolves when this life is over.
    pub(crate) async fn over(&self) {
        let death = Arc::clone(&self.world.lock().death);
        if !self.is_over() {
            // The semaphore has no permits; it is only closed.
            _ = death.acquire().await;
        }
    }

    /// Ends this life, as `kill -9` does.
    pub(crate) fn end(&self, why: &str) {
        if self.is_over() {
            return;
        }
        let mut state = self.world.lock();
        state.log(format_args!("worker {} ends: {why}", self.number));
        state.checker.worker_ended();
        state.death.close();
        drop(state);
        super::broker::cut_all(&self.world, "its worker ended");
    }

    /// A place where the worker may die. A dead worker never returns from here.
    pub(crate) async fn point(&self, place: &str) {
        if !self.is_over() {
            let dies = {
                let mut state = self.world.lock();
                let share = state.plan.crash;
                state.chance(share)
            };
            if dies {
                self.end(place);
            }
        }
        if self.is_over() {
            pending::<()>().await;
        }
    }

    /// Lets time pass. The worker may die before or after.
    pub(crate) async fn pass(&self, place: &str) {
        self.point(place).await;
        self.world.wait().await;
        self.point(place).await;
    }
}
