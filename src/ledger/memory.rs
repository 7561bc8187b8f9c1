//! A ledger that lives as long as the process.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;

use super::entry::Entry;
use crate::clock;

/// How many expired entries a write removes, at most. More than one, so that writing always gains on expiry.
const SWEEP_MAX: usize = 64;

/// Entries by key, and in the order in which they end.
#[derive(Default)]
pub(crate) struct Memory(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    by_key: HashMap<String, Entry>,
    by_end: BTreeSet<(Timestamp, String)>,
}

/// Without the keys: an event's id may be somebody's number.
impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({})", self.len())
    }
}

impl Memory {
    pub(crate) fn get(&self, key: &str) -> Option<Entry> {
        self.lock().by_key.get(key).cloned()
    }

    pub(crate) fn put(&self, key: &str, entry: Entry) {
        let mut entries = self.lock();
        entries.remove(key);
        entries.by_end.insert((entry.until, key.to_owned()));
        entries.by_key.insert(key.to_owned(), entry);
        entries.sweep(clock::now());
    }

    pub(crate) fn remove(&self, key: &str) {
        self.lock().remove(key);
    }

    pub(super) fn len(&self) -> u64 {
        self.lock().by_key.len() as u64
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn remove(&mut self, key: &str) {
        if let Some((key, entry)) = self.by_key.remove_entry(key) {
            self.by_end.remove(&(entry.until, key));
        }
    }

    fn sweep(&mut self, now: Timestamp) {
        for _ in 0..SWEEP_MAX {
            match self.by_end.first() {
                Some((until, _)) if *until <= now => {
                    if let Some((_, key)) = self.by_end.pop_first() {
                        self.by_key.remove(&key);
                    }
                }
                _ => return,
            }
        }
    }
}
