//! The worker's lives: from a start to a crash or a shutdown.

use std::{fmt, future::pending, sync::Arc};

use tokio::sync::Semaphore;

use super::World;
use crate::broker;

/// The current life of the worker.
pub(super) struct CurrentLife {
    number: u64,
    /// Closed when the life is over.
    death: Arc<Semaphore>,
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

impl CurrentLife {
    /// A life before the first, which does not end.
    pub(super) fn none() -> Self {
        Self { number: 0, death: Arc::new(Semaphore::new(0)) }
    }

    /// The number of the life, if it is not over.
    pub(super) fn number(&self) -> Option<u64> {
        (!self.death.is_closed()).then_some(self.number)
    }
}

impl World {
    /// Starts a new life of the worker.
    pub(crate) fn begin_life(&self) -> Life {
        let mut state = self.lock();
        let number = state.life.number + 1;
        state.life = CurrentLife { number, death: Arc::new(Semaphore::new(0)) };
        state.log(format_args!("worker {number} starts"));
        drop(state);
        Life { world: self.clone(), number }
    }
}

impl Life {
    pub(crate) fn is_over(&self) -> bool {
        self.world.lock().life.number() != Some(self.number)
    }

    /// Resolves when this life is over.
    pub(crate) async fn over(&self) {
        let death = Arc::clone(&self.world.lock().life.death);
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
        state.life.death.close();
        state.ingress = None;
        drop(state);
        broker::cut_all(&self.world, "its worker ended");
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
