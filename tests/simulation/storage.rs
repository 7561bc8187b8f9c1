//! The disk under the ledger: it survives the worker, keeps written data, and sometimes fails.

mod tests;

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;
use instant_connect_worker::{
    clock::Clock,
    ledger::{
        Ledger, LedgerError,
        claims::KeyGuard,
        entry::{Change, Entry},
        entry_store::EntryStore,
        memory::Memory,
    },
};

use super::world::Life;

/// The data on the disk.
pub(crate) struct SimulatedDisk {
    entries: Memory,
    /// True if every read and write fails.
    pub(crate) out: bool,
}

/// The disk as one life of the worker sees it.
struct SimulatedStore {
    life: Life,
    clock: Clock,
}

impl fmt::Debug for SimulatedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimulatedStore")
    }
}

/// The ledger of one life of the worker.
pub(crate) fn ledger(life: Life) -> Ledger {
    let clock = life.world.clock();
    Ledger::over(Arc::new(SimulatedStore { life, clock: clock.clone() }), clock)
}

impl SimulatedDisk {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { entries: Memory::new(clock), out: false }
    }
}

impl SimulatedStore {
    async fn read(&self, key: &str) -> Result<Option<Entry>, LedgerError> {
        self.life.pass("reading the ledger").await;
        let mut state = self.life.world.lock();
        let share = state.plan.ledger;
        if state.disk.out || state.chance(share) {
            state.log(format_args!("ledger: {key} can't be read"));
            state.checker.ledger_stops();
            if key.starts_with("tried:") {
                state.checker.ledger_failed(key);
            }
            return Err(failure());
        }
        let entry = state.disk.entries.find(key);
        state.log(format_args!("ledger: {key} read, {}", if entry.is_some() { "there" } else { "absent" }));
        drop(state);
        Ok(entry)
    }
}

impl EntryStore for SimulatedStore {
    fn clock(&self) -> &Clock {
        &self.clock
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, LedgerError>> {
        Box::pin(self.read(key))
    }

    /// Writes even if the caller gives up, as the file ledger does. Releases `guard` after the write.
    fn write<'a>(
        &'a self,
        key: &'a str,
        change: Change,
        guard: Option<Arc<KeyGuard>>,
    ) -> BoxFuture<'a, Result<(), LedgerError>> {
        let (life, key) = (self.life.clone(), key.to_owned());
        Box::pin(async move {
            let write = tokio::spawn(async move {
                life.pass("writing the ledger").await;
                let result = apply(&life, &key, change);
                life.pass("having written the ledger").await;
                drop(guard);
                result
            });
            write.await.unwrap_or_else(|_| Err(failure()))
        })
    }

    fn count(&self) -> BoxFuture<'_, Result<Option<u64>, LedgerError>> {
        Box::pin(async { Ok(None) })
    }
}

/// Writes or fails. A failed write may still have taken effect.
fn apply(life: &Life, key: &str, change: Change) -> Result<(), LedgerError> {
    let mut state = life.world.lock();
    let share = state.plan.ledger;
    let fails = state.disk.out || state.chance(share);
    let written = !fails || (!state.disk.out && state.random.bool());
    let what = if matches!(change, Change::Put(_)) { "put" } else { "removed" };
    state.log(format_args!("ledger: {key} {what}, written {written}, failed {fails}"));
    if fails {
        state.checker.ledger_stops();
        state.checker.ledger_failed(key);
    }
    if written {
        match change {
            Change::Put(entry) => {
                state.checker.ledger_has(key, Some(&entry));
                state.disk.entries.put(key, entry);
            }
            Change::Remove => {
                state.checker.ledger_has(key, None);
                state.disk.entries.remove(key);
            }
        }
    }
    drop(state);
    if fails { Err(failure()) } else { Ok(()) }
}

fn failure() -> LedgerError {
    LedgerError::Refused { reason: "the simulated disk failed".to_owned() }
}
