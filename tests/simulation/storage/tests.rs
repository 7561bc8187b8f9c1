//! The simulated store keeps the ledger's promises, as the real ones do.

#[macro_use]
#[path = "../../ledger/suite/mod.rs"]
mod suite;

use std::time::Duration;

use fastrand::Rng;
use instant_connect_worker::{
    clock::Clock,
    ledger::{self as api, Ledger},
    random::Random,
};
use tokio::runtime::Runtime;

use super::ledger;
use crate::{
    checker::{CheckedRules, Checker},
    plan::WorldPlan,
    world::World,
};

/// A simulated disk. Each open ledger is that of another life of the worker.
struct Disk(World);

/// A world without faults, in which no stage runs.
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
        senders: None,
    };
    World::new(plan, random, Random::with_seed(1), Checker::new(Vec::new(), rules), String::new(), false)
}

impl Disk {
    fn new() -> Self {
        Self(calm_world())
    }
}

impl suite::Location for Disk {
    async fn open(&self) -> Ledger {
        ledger(self.0.begin_life())
    }

    fn runtime(&self) -> Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
    }

    fn shown(&self) -> String {
        "SimulatedStore".to_owned()
    }

    fn settings(&self) -> String {
        String::new()
    }
}

mod promises {
    promises!(tokio::test(start_paused = true), super::Disk::new());
}

#[test]
fn simulated_store_matches_the_model() {
    suite::assert_matches_model(&Disk::new(), 500);
}
