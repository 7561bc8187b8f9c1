//! A ledger that lives as long as the process.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::future::BoxFuture;
use jiff::Timestamp;

use super::{
    LedgerError,
    claims::KeyGuard,
    entry::{Change, Entry},
    entry_store::EntryStore,
};
use crate::clock::Clock;

/// Maximum number of expired entries that one write removes. More than one, so that removal is faster than growth.
const SWEEP_MAX: usize = 64;

/// Entries by key and by expiry time.
pub struct Memory {
    entries: Mutex<MemoryEntries>,
    entries_max: usize,
    clock: Clock,
}

#[derive(Default)]
struct MemoryEntries {
    by_key: HashMap<String, Entry>,
    by_expiry: BTreeSet<(Timestamp, String)>,
}

/// Leaves the keys out, because an event id may contain a phone number.
impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({})", self.size())
    }
}

impl Memory {
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self::bounded(clock, usize::MAX)
    }

    /// A ledger that forgets the entries that would expire first, if there are more than `entries_max`.
    pub(crate) fn bounded(clock: Clock, entries_max: usize) -> Self {
        Self { entries: Mutex::default(), entries_max, clock }
    }

    #[must_use]
    pub fn find(&self, key: &str) -> Option<Entry> {
        self.lock().by_key.get(key).cloned()
    }

    pub fn put(&self, key: &str, entry: Entry) {
        let mut entries = self.lock();
        entries.remove(key);
        entries.by_expiry.insert((entry.until, key.to_owned()));
        entries.by_key.insert(key.to_owned(), entry);
        entries.sweep(self.clock.steady());
        while entries.by_key.len() > self.entries_max && entries.forget_first() {}
    }

    pub fn remove(&self, key: &str) {
        self.lock().remove(key);
    }

    fn size(&self) -> u64 {
        self.lock().by_key.len() as u64
    }

    fn lock(&self) -> MutexGuard<'_, MemoryEntries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EntryStore for Memory {
    fn clock(&self) -> &Clock {
        &self.clock
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, LedgerError>> {
        Box::pin(async move { Ok(self.find(key)) })
    }

    fn write<'a>(
        &'a self,
        key: &'a str,
        change: Change,
        guard: Option<Arc<KeyGuard>>,
    ) -> BoxFuture<'a, Result<(), LedgerError>> {
        Box::pin(async move {
            match change {
                Change::Put(entry) => self.put(key, entry),
                Change::Remove => self.remove(key),
            }
            drop(guard);
            Ok(())
        })
    }

    fn count(&self) -> BoxFuture<'_, Result<Option<u64>, LedgerError>> {
        Box::pin(async move { Ok(Some(self.size())) })
    }
}

impl MemoryEntries {
    fn remove(&mut self, key: &str) {
        if let Some((key, entry)) = self.by_key.remove_entry(key) {
            self.by_expiry.remove(&(entry.until, key));
        }
    }

    fn sweep(&mut self, now: Timestamp) {
        for _ in 0..SWEEP_MAX {
            match self.by_expiry.first() {
                Some((until, _)) if *until <= now => _ = self.forget_first(),
                _ => return,
            }
        }
    }

    /// Removes the entry that expires first. False if there is none.
    fn forget_first(&mut self) -> bool {
        let Some((_, key)) = self.by_expiry.pop_first() else { return false };
        self.by_key.remove(&key);
        true
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::ledger::entry::EntryState;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    fn entry(until: Timestamp) -> Entry {
        Entry { fingerprint: [0; 32], state: EntryState::Recorded, bytes: Vec::new(), until }
    }

    #[test]
    fn bounded_ledger_forgets_what_would_expire_first() {
        let memory = Memory::bounded(Clock::system(), 2);
        for (key, hours) in [("b", 3), ("a", 2), ("c", 4), ("c", 5)] {
            memory.put(key, entry(memory.clock.now() + SignedDuration::from_hours(hours)));
        }
        assert_eq!(memory.size(), 2);
        assert!(memory.find("a").is_none() && memory.find("b").is_some() && memory.find("c").is_some());
    }

    #[test]
    fn expired_entries_are_removed_in_batches() {
        let memory = Memory::new(Clock::system());
        for number in 0..100 {
            let (key, until) = (number.to_string(), at(number / 99));
            let mut entries = memory.lock();
            entries.by_expiry.insert((until, key.clone()));
            entries.by_key.insert(key, entry(until));
        }
        let left = |now| {
            memory.lock().sweep(now);
            memory.size()
        };
        assert_eq!([left(at(-1)), left(at(0)), left(at(0)), left(at(1))], [100, 36, 1, 0]);
    }

    #[test]
    fn replaced_or_removed_entry_leaves_no_expiry_behind() {
        let clock = Clock::system();
        let (memory, later) = (Memory::new(clock.clone()), clock.now() + SignedDuration::from_hours(1));
        memory.put("k", entry(later));
        memory.put("k", entry(later + SignedDuration::from_hours(1)));
        memory.lock().sweep(later);
        assert!(memory.find("k").is_some());
        memory.remove("k");
        assert!(memory.lock().by_expiry.is_empty());
        memory.put("expired", entry(at(0)));
        assert_eq!(memory.size(), 0, "a write removes expired entries");
    }
}
