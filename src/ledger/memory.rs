//! A ledger that lives as long as the process.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tracing::warn;

use super::{
    LedgerError,
    claims::KeyGuard,
    entry::{Change, Entry},
    entry_store::EntryStore,
};
use crate::clock::Clock;

/// Maximum number of expired entries that one write removes. More than one, so that removal is faster than growth.
const SWEEP_MAX: usize = 64;
/// Maximum number of entries.
pub(crate) const ENTRIES_MAX: usize = 100_000;
/// Maximum size of all entries, in bytes. The container of an ingress has 192 MiB.
pub(crate) const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Memory of an entry without its key and value, in bytes.
const OVERHEAD: usize = 256;

/// Entries by key, by expiry time and by age. If there are too many, the oldest are forgotten.
pub struct Memory {
    entries: Mutex<MemoryEntries>,
    entries_max: usize,
    bytes_max: usize,
    clock: Clock,
}

#[derive(Default)]
struct MemoryEntries {
    by_key: HashMap<String, KeptEntry>,
    by_expiry: BTreeSet<(Timestamp, String)>,
    by_age: BTreeMap<u64, String>,
    bytes: usize,
    /// Number of the next entry.
    next: u64,
    /// Number of entries that were forgotten before they expired.
    forgotten: u64,
}

struct KeptEntry {
    entry: Entry,
    /// Number in the order of writing.
    number: u64,
}

/// Memory of an entry, in bytes. The key is kept three times.
const fn size(key: &str, entry: &Entry) -> usize {
    OVERHEAD + 3 * key.len() + entry.bytes.len()
}

/// Leaves the keys out, because an event id may contain a phone number.
impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({})", self.len())
    }
}

impl Memory {
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self::bounded(clock, ENTRIES_MAX, BYTES_MAX)
    }

    fn bounded(clock: Clock, entries_max: usize, bytes_max: usize) -> Self {
        Self { entries: Mutex::default(), entries_max, bytes_max, clock }
    }

    #[must_use]
    pub fn find(&self, key: &str) -> Option<Entry> {
        self.lock().by_key.get(key).map(|kept| kept.entry.clone())
    }

    pub fn put(&self, key: &str, entry: Entry) {
        let mut entries = self.lock();
        entries.remove(key);
        entries.add(key, entry);
        entries.sweep(self.clock.steady());
        while entries.by_key.len() > self.entries_max || entries.bytes > self.bytes_max {
            let Some((_, key)) = entries.by_age.first_key_value() else { break };
            let key = key.clone();
            entries.remove(&key);
            entries.forgotten += 1;
            // More and more rarely.
            if entries.forgotten.is_power_of_two() {
                warn!(
                    forgotten = entries.forgotten,
                    entries_max = self.entries_max,
                    bytes_max = self.bytes_max,
                    "the ledger in memory is full and deletes its oldest entries; a repeat of their events is processed again"
                );
            }
        }
    }

    pub fn remove(&self, key: &str) {
        self.lock().remove(key);
    }

    fn len(&self) -> u64 {
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
        Box::pin(async move { Ok(Some(self.len())) })
    }
}

impl MemoryEntries {
    fn add(&mut self, key: &str, entry: Entry) {
        let number = self.next;
        self.next += 1;
        self.bytes += size(key, &entry);
        self.by_expiry.insert((entry.until, key.to_owned()));
        self.by_age.insert(number, key.to_owned());
        self.by_key.insert(key.to_owned(), KeptEntry { entry, number });
    }

    fn remove(&mut self, key: &str) {
        if let Some((key, KeptEntry { entry, number })) = self.by_key.remove_entry(key) {
            self.bytes -= size(&key, &entry);
            self.by_age.remove(&number);
            self.by_expiry.remove(&(entry.until, key));
        }
    }

    fn sweep(&mut self, now: Timestamp) {
        for _ in 0..SWEEP_MAX {
            match self.by_expiry.first() {
                Some((until, key)) if *until <= now => {
                    let key = key.clone();
                    self.remove(&key);
                }
                _ => return,
            }
        }
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

    /// A new entry of a short session stays, however long the sessions of the others are.
    #[test]
    fn full_ledger_forgets_the_oldest_entries() {
        let clock = Clock::system();
        let after = |hours| entry(clock.now() + SignedDuration::from_hours(hours));
        let memory = Memory::bounded(clock.clone(), 2, usize::MAX);
        for (key, hours) in [("a", 3), ("b", 4), ("a", 5), ("c", 1)] {
            memory.put(key, after(hours));
        }
        assert_eq!(memory.len(), 2);
        assert!(memory.find("a").is_some() && memory.find("b").is_none() && memory.find("c").is_some());

        let memory = Memory::bounded(clock.clone(), usize::MAX, 2 * 1024 * 1024);
        let large = || Entry { bytes: vec![0; 1024 * 1024], ..after(1) };
        for key in ["a", "b", "c"] {
            memory.put(key, large());
        }
        assert_eq!(memory.len(), 1, "two and their keys are larger");
        assert!(memory.find("c").is_some());
        memory.remove("c");
        assert_eq!(memory.lock().bytes, 0);
    }

    #[test]
    fn expired_entries_are_removed_in_batches() {
        let memory = Memory::new(Clock::system());
        for number in 0..100 {
            memory.lock().add(&number.to_string(), entry(at(number / 99)));
        }
        let left = |now| {
            memory.lock().sweep(now);
            memory.len()
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
        assert!(memory.lock().by_expiry.is_empty() && memory.lock().by_age.is_empty());
        memory.put("expired", entry(at(0)));
        assert_eq!(memory.len(), 0, "a write removes expired entries");
    }
}
