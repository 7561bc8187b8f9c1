//! A ledger on a disk that fails when told to, for tests of the ledger's users.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures_util::future::BoxFuture;

use super::{
    Ledger, LedgerError,
    claims::KeyGuard,
    entry::{Change, Entry},
    entry_store::EntryStore,
    memory::Memory,
};
use crate::clock::Clock;

#[derive(Debug)]
struct FailingStore {
    entries: Memory,
    clock: Clock,
    fails: Arc<AtomicBool>,
}

/// A ledger in memory. The returned switch makes its reads and writes fail.
pub(crate) fn ledger() -> (Ledger, impl Fn(bool)) {
    ledger_with(Clock::system())
}

/// A ledger in memory whose entries expire by `clock`. The returned switch makes its reads and writes fail.
pub(crate) fn ledger_with(clock: Clock) -> (Ledger, impl Fn(bool)) {
    let fails = Arc::<AtomicBool>::default();
    let store =
        FailingStore { entries: Memory::new(clock.clone()), clock: clock.clone(), fails: Arc::clone(&fails) };
    (Ledger::over(Arc::new(store), clock), move |fail| fails.store(fail, Ordering::Relaxed))
}

impl FailingStore {
    fn works(&self) -> Result<(), LedgerError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(LedgerError::Refused { reason: "the disk fails".to_owned() });
        }
        Ok(())
    }
}

impl EntryStore for FailingStore {
    fn clock(&self) -> &Clock {
        &self.clock
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, LedgerError>> {
        Box::pin(async { self.works().map(|()| self.entries.find(key)) })
    }

    fn write<'a>(
        &'a self,
        key: &'a str,
        change: Change,
        _guard: Option<Arc<KeyGuard>>,
    ) -> BoxFuture<'a, Result<(), LedgerError>> {
        Box::pin(async move {
            self.works()?;
            match change {
                Change::Put(entry) => self.entries.put(key, entry),
                Change::Remove => self.entries.remove(key),
            }
            Ok(())
        })
    }

    fn count(&self) -> BoxFuture<'_, Result<Option<u64>, LedgerError>> {
        Box::pin(async { Ok(None) })
    }
}
