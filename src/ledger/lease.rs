//! The right to act on a key.

use std::{fmt, sync::Arc};

use jiff::Timestamp;

use super::{
    LedgerError, VALUE_BYTES_MAX, check,
    claims::KeyGuard,
    entry::{Entry, EntryState, Fingerprint},
    file::{Change, File},
    memory::Memory,
    redis::HeldLease,
};

/// The right to act on a key; one claimant at a time holds it.
///
/// Dropping the lease ends the claim and keeps a note, because the outcome of the effect is then unknown. A claim in a
/// file ends when the pending write is on the disk. A claim in Redis ends when Redis is told; if Redis cannot be
/// reached, the claim expires there within 30 s.
pub struct Lease {
    key: String,
    fingerprint: Fingerprint,
    note: Option<Vec<u8>>,
    /// True if the ledger may hold a note, written by this lease or by an earlier holder.
    noted: bool,
    holding: Holding,
}

/// The store that holds the claim, and the guard of the key in this process.
pub(super) enum Holding {
    Memory(Arc<Memory>, KeyGuard),
    File(Arc<File>, Arc<KeyGuard>),
    Redis(Box<HeldLease>),
    #[cfg(test)]
    Simulated(Arc<crate::simulation::store::SimulatedStore>, Arc<KeyGuard>),
}

impl Holding {
    fn guard(&self) -> Option<&KeyGuard> {
        match self {
            Self::Memory(_, guard) => Some(guard),
            Self::File(_, guard) => Some(guard),
            Self::Redis(held) => held.guard(),
            #[cfg(test)]
            Self::Simulated(_, guard) => Some(guard),
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("noted", &self.noted).finish_non_exhaustive()
    }
}

impl Lease {
    pub(super) fn new(key: &str, fingerprint: Fingerprint, note: Option<Vec<u8>>, holding: Holding) -> Self {
        if let Some(guard) = holding.guard() {
            guard.start_acting(fingerprint);
        }
        Self { key: key.to_owned(), fingerprint, noted: note.is_some(), note, holding }
    }

    /// Note of an earlier holder that died or gave up: an effect whose outcome is unknown, or the completed part of an
    /// effect. `None` if there is no note.
    #[must_use]
    pub fn note(&self) -> Option<&[u8]> {
        self.note.as_deref()
    }

    /// Writes `note` durably and replaces any earlier note. A note is written before an effect whose outcome could
    /// become unknown, or when a part of an effect is done. Returns when the note is on the disk. The note is valid
    /// until `until`.
    ///
    /// # Errors
    /// [`LedgerError`]: the note may or may not be kept. The effect should not start, or not continue.
    /// [`LedgerError::Lost`]: another worker holds the claim now.
    pub async fn write_note(&mut self, note: &[u8], until: Timestamp) -> Result<(), LedgerError> {
        check("a note", note.len(), VALUE_BYTES_MAX)?;
        self.noted = true;
        let entry = self.entry(EntryState::Noted, note, until);
        match &self.holding {
            Holding::Redis(held) => held.note(&entry).await,
            _ => self.write(Change::Put(entry)).await,
        }
    }

    /// Records `result` durably and replaces any note. Returns when the result is on the disk; waiting writes share one
    /// commit. The record is valid until `until`, and the claim ends with this lease.
    ///
    /// # Errors
    /// [`LedgerError`]: the result may or may not be kept. To be sure, record it again.
    /// [`LedgerError::Lost`]: another worker took the claim over.
    pub async fn record(&mut self, result: &[u8], until: Timestamp) -> Result<(), LedgerError> {
        check("a result", result.len(), VALUE_BYTES_MAX)?;
        let entry = self.entry(EntryState::Recorded, result, until);
        match &mut self.holding {
            Holding::Redis(held) => held.record(&entry).await,
            _ => self.write(Change::Put(entry)).await,
        }
    }

    /// Ends the claim without a result, because the effect did not happen. Removes any note.
    ///
    /// # Errors
    /// [`LedgerError`]: the claim has ended, but a note may remain.
    pub async fn release(mut self) -> Result<(), LedgerError> {
        match &mut self.holding {
            Holding::Redis(held) => held.release().await,
            // Without a note there is nothing to remove, so no commit is needed.
            _ if !self.noted => Ok(()),
            _ => self.write(Change::Remove).await,
        }
    }

    /// Passes the guard with the write. Even if the caller is cancelled, the next claimant sees the written value.
    async fn write(&self, change: Change) -> Result<(), LedgerError> {
        match (&self.holding, change) {
            (Holding::Memory(memory, _), Change::Put(entry)) => memory.put(&self.key, entry),
            (Holding::Memory(memory, _), Change::Remove) => memory.remove(&self.key),
            (Holding::File(file, guard), change) => {
                return file.write(self.key.clone(), change, Some(guard.clone())).await;
            }
            #[cfg(test)]
            (Holding::Simulated(store, guard), change) => {
                return store.write(&self.key, change, Some(guard.clone())).await;
            }
            // Redis has its own operations.
            (Holding::Redis(_), _) => {}
        }
        Ok(())
    }

    fn entry(&self, state: EntryState, bytes: &[u8], until: Timestamp) -> Entry {
        Entry { fingerprint: self.fingerprint, state, bytes: bytes.to_vec(), until }
    }
}
