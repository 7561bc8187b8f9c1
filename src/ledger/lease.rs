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

/// The right to act on a key, of one claimant at a time.
///
/// Dropping it ends the claim and keeps a note, as the effect's outcome is then unknown. That is at once, or as soon
/// as what is being written is on the disk, or Redis was told; where it can't be, the claim ends there by itself
/// within 30 s.
pub struct Lease {
    key: String,
    fingerprint: Fingerprint,
    note: Option<Vec<u8>>,
    /// Whether the ledger may hold a note, this lease's own or an earlier holder's.
    noted: bool,
    holding: Holding,
}

/// Where the claim was made, and the turn in this process.
pub(super) enum Holding {
    Memory(Arc<Memory>, KeyGuard),
    File(Arc<File>, Arc<KeyGuard>),
    Redis(Box<HeldLease>),
    #[cfg(test)]
    Simulated(Arc<crate::simulation::store::SimulatedStore>, Arc<KeyGuard>),
}

impl Holding {
    fn turn(&self) -> Option<&KeyGuard> {
        match self {
            Self::Memory(_, turn) => Some(turn),
            Self::File(_, turn) => Some(turn),
            Self::Redis(held) => held.turn(),
            #[cfg(test)]
            Self::Simulated(_, turn) => Some(turn),
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
        if let Some(turn) = holding.turn() {
            turn.act(fingerprint);
        }
        Self { key: key.to_owned(), fingerprint, noted: note.is_some(), note, holding }
    }

    /// What an earlier holder noted before it died or gave up: an effect whose outcome is unknown, or the part of it
    /// that is done; `None` where nobody did.
    #[must_use]
    pub fn note(&self) -> Option<&[u8]> {
        self.note.as_deref()
    }

    /// Durably notes `note` before an effect whose outcome could become unknown, or when a part of it is done, in place
    /// of any note before it. Returns once it is on the disk. The note counts until `until`.
    ///
    /// # Errors
    /// [`LedgerError`]: the note may or may not be kept, and the effect should not be begun, or not go on.
    /// [`LedgerError::Lost`]: another worker holds the claim by now.
    pub async fn write_note(&mut self, note: &[u8], until: Timestamp) -> Result<(), LedgerError> {
        check("a note", note.len(), VALUE_BYTES_MAX)?;
        self.noted = true;
        let entry = self.entry(EntryState::Noted, note, until);
        match &self.holding {
            Holding::Redis(held) => held.note(&entry).await,
            _ => self.write(Change::Put(entry)).await,
        }
    }

    /// Durably records `result`, in place of any note. Returns once it is on the disk; writes that wait at the same
    /// time share one commit. The record counts until `until`, and the claim ends with this lease.
    ///
    /// # Errors
    /// [`LedgerError`]: the result may or may not be kept. One who has to be sure records it again.
    /// [`LedgerError::Lost`]: another worker took the claim over.
    pub async fn record(&mut self, result: &[u8], until: Timestamp) -> Result<(), LedgerError> {
        check("a result", result.len(), VALUE_BYTES_MAX)?;
        let entry = self.entry(EntryState::Recorded, result, until);
        match &mut self.holding {
            Holding::Redis(held) => held.record(&entry).await,
            _ => self.write(Change::Put(entry)).await,
        }
    }

    /// Ends the claim without a result: the effect did not happen. A note is removed.
    ///
    /// # Errors
    /// [`LedgerError`]: the claim is over, a note may be left.
    pub async fn release(mut self) -> Result<(), LedgerError> {
        match &mut self.holding {
            Holding::Redis(held) => held.release().await,
            // Without a note the files have nothing to forget, and no commit is spent on it.
            _ if !self.noted => Ok(()),
            _ => self.write(Change::Remove).await,
        }
    }

    /// The turn goes along: should nobody wait for the answer any more, the next one still sees what was written.
    async fn write(&self, change: Change) -> Result<(), LedgerError> {
        match (&self.holding, change) {
            (Holding::Memory(memory, _), Change::Put(entry)) => memory.put(&self.key, entry),
            (Holding::Memory(memory, _), Change::Remove) => memory.remove(&self.key),
            (Holding::File(file, turn), change) => {
                return file.write(self.key.clone(), change, Some(turn.clone())).await;
            }
            #[cfg(test)]
            (Holding::Simulated(store, turn), change) => {
                return store.write(&self.key, change, Some(turn.clone())).await;
            }
            // It has operations of its own.
            (Holding::Redis(_), _) => {}
        }
        Ok(())
    }

    fn entry(&self, state: EntryState, bytes: &[u8], until: Timestamp) -> Entry {
        Entry { fingerprint: self.fingerprint, state, bytes: bytes.to_vec(), until }
    }
}
