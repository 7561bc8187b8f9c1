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

use super::world::{Life, Part};

/// The data on the disk.
pub(crate) struct SimulatedDisk {
    entries: Memory,
    /// True if every read and write fails.
    out: bool,
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

impl Part<'_, SimulatedDisk> {
    /// Lets all reads and writes fail, or ends that.
    pub(crate) fn set_out(&mut self, out: bool) {
        self.common.log(format_args!("the ledger {}", if out { "is down" } else { "recovered" }));
        self.out = out;
    }

    fn fails(&mut self) -> bool {
        let share = self.common.plan.ledger;
        self.out || self.common.chance(share)
    }

    fn read(&mut self, key: &str) -> Result<Option<Entry>, LedgerError> {
        if self.fails() {
            self.common.log(format_args!("ledger: {key} can't be read"));
            self.common.checker.ledger_stops();
            if key.starts_with("tried:") {
                self.common.checker.ledger_failed(key);
            }
            return Err(failure());
        }
        let entry = self.entries.find(key);
        let found = if entry.is_some() { "there" } else { "absent" };
        self.common.log(format_args!("ledger: {key} read, {found}"));
        Ok(entry)
    }

    /// Writes or fails. A failed write may still have taken effect.
    fn write(&mut self, key: &str, change: Change) -> Result<(), LedgerError> {
        let fails = self.fails();
        let written = !fails || (!self.out && self.common.random.bool());
        let what = if matches!(change, Change::Put(_)) { "put" } else { "removed" };
        self.common.log(format_args!("ledger: {key} {what}, written {written}, failed {fails}"));
        let checker = &mut self.common.checker;
        if fails {
            checker.ledger_stops();
            checker.ledger_failed(key);
        }
        if written {
            match change {
                Change::Put(entry) => {
                    checker.ledger_has(key, Some(&entry));
                    checker.request_noted(key, Some(entry.state));
                    let rule = checker.guest_noted(key, Some((entry.state, &entry.bytes)));
                    self.common.must(rule);
                    self.entries.put(key, entry);
                }
                Change::Remove => {
                    checker.ledger_has(key, None);
                    checker.request_noted(key, None);
                    let rule = checker.guest_noted(key, None);
                    self.common.must(rule);
                    self.entries.remove(key);
                }
            }
        }
        if fails { Err(failure()) } else { Ok(()) }
    }
}

impl SimulatedStore {
    async fn read(&self, key: &str) -> Result<Option<Entry>, LedgerError> {
        self.life.pass("reading the ledger").await;
        self.life.world.lock().disk().read(key)
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
                let result = life.world.lock().disk().write(&key, change);
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

fn failure() -> LedgerError {
    LedgerError::Refused { reason: "the simulated disk failed".to_owned() }
}
