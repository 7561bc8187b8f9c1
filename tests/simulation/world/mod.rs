//! The world: the broker, the network and the disk, and what these parts share. Each part owns its state, and only its own
//! module changes that.
//!
//! - `common`: the plan, randomness, time, rules and journal, which all parts share
//! - `journal`: the steps of a history
//! - `life`: the worker's lives

mod common;
mod journal;
mod life;

use std::{
    mem,
    ops::{Deref, DerefMut},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fastrand::Rng;
use instant_connect_worker::{
    clock::Clock, ingress::IngressService, random::Random, stages::GuestsDelivery,
    telemetry::metrics::Metrics,
};
use tokio::time::sleep;

pub(crate) use self::{common::Common, life::Life};
use crate::{
    broker::SimulatedQueues, checker::Checker, network::Servers, plan::WorldPlan, storage::SimulatedDisk,
    worker,
};

/// The metrics of all worlds, because creating them takes longer than many worlds.
static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    Metrics::new(GuestsDelivery::WebexConnect.stages(), &[])
        .unwrap_or_else(|error| unreachable!("the metrics are constant: {error}"))
});

/// The world, shared by all its parts. Everything runs on one thread.
#[derive(Clone)]
pub(crate) struct World(Arc<Mutex<WorldState>>);

/// The world's state.
pub(crate) struct WorldState {
    common: Common,
    broker: SimulatedQueues,
    network: Servers,
    disk: SimulatedDisk,
    /// The ingress of the worker that runs now.
    pub(crate) ingress: Option<Arc<IngressService>>,
    /// Number of start requests that are not answered yet.
    pub(crate) requests: usize,
    /// The metrics of all lives of the worker. No check depends on them.
    pub(crate) metrics: Metrics,
}

/// A part of the world, with what all parts share.
pub(crate) struct Part<'a, T> {
    pub(crate) own: &'a mut T,
    pub(crate) common: &'a mut Common,
}

impl<T> Deref for Part<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.own
    }
}

impl<T> DerefMut for Part<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.own
    }
}

impl World {
    /// A world with the choices of `random`, whose worker draws from `worker_random`.
    pub(crate) fn new(
        plan: WorldPlan,
        random: Rng,
        worker_random: Random,
        checker: Checker,
        token: String,
        print: bool,
    ) -> Self {
        Self(Arc::new(Mutex::new(WorldState {
            broker: worker::queues(&plan),
            network: Servers::new(token),
            disk: SimulatedDisk::new(checker.rules.clock.clone()),
            common: Common::new(plan, random, worker_random, checker, print),
            ingress: None,
            requests: 0,
            metrics: METRICS.clone(),
        })))
    }

    /// The time of day in this world.
    pub(crate) fn clock(&self) -> Clock {
        self.lock().clock.clone()
    }

    /// The random numbers of the worker.
    pub(crate) fn worker_random(&self) -> Random {
        self.lock().worker_random.clone()
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
    pub(crate) const fn broker(&mut self) -> Part<'_, SimulatedQueues> {
        Part { own: &mut self.broker, common: &mut self.common }
    }

    pub(crate) const fn network(&mut self) -> Part<'_, Servers> {
        Part { own: &mut self.network, common: &mut self.common }
    }

    pub(crate) const fn disk(&mut self) -> Part<'_, SimulatedDisk> {
        Part { own: &mut self.disk, common: &mut self.common }
    }

    /// Replaces the broker. Returns the one before.
    pub(crate) const fn replace_broker(&mut self, broker: SimulatedQueues) -> SimulatedQueues {
        mem::replace(&mut self.broker, broker)
    }
}

impl Deref for WorldState {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.common
    }
}

impl DerefMut for WorldState {
    fn deref_mut(&mut self) -> &mut Common {
        &mut self.common
    }
}
