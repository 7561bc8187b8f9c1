//! The simulated store keeps the ledger's promises, as the real ones do.

#[macro_use]
#[path = "../../tests/ledger/suite/mod.rs"]
mod suite;

use tokio::runtime::Runtime;

use super::{calm_world, store, world::World};
use crate::ledger::{self as api, Ledger};

/// A simulated disk. Each open ledger is that of another life of the worker.
struct Disk(World);

impl Disk {
    fn new() -> Self {
        Self(calm_world())
    }
}

impl suite::Location for Disk {
    async fn open(&self) -> Ledger {
        store::ledger(self.0.begin_life())
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
