//! The right to act on a key.
//!
//! In Redis, a lease is also the limited time for which a claim is valid: see `redis/lease_renewal.rs`.

use std::fmt;

use jiff::Timestamp;

use super::{
    LedgerError, VALUE_BYTES_MAX, check,
    entry::{Entry, EntryState, Fingerprint},
    store::StoreClaim,
};

/// The right to act on a key; one claimant at a time holds it.
///
/// Dropping the lease ends the claim and keeps a note, because the outcome of the effect is then unknown. A claim in a
/// file ends when the pending write is on the disk. A claim in Redis ends when Redis is told; if Redis cannot be
/// reached, the claim expires there within 30 s.
pub struct Lease {
    fingerprint: Fingerprint,
    note: Option<Vec<u8>>,
    /// True if the ledger may hold a note, written by this lease or by an earlier holder.
    noted: bool,
    claim: Box<dyn StoreClaim>,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("noted", &self.noted).finish_non_exhaustive()
    }
}

impl Lease {
    pub(super) fn new(fingerprint: Fingerprint, note: Option<Vec<u8>>, claim: Box<dyn StoreClaim>) -> Self {
        Self { fingerprint, noted: note.is_some(), note, claim }
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
        self.claim.note(entry).await
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
        self.claim.record(entry).await
    }

    /// Ends the claim without a result, because the effect did not happen. Removes any note.
    ///
    /// # Errors
    /// [`LedgerError`]: the claim has ended, but a note may remain.
    pub async fn release(mut self) -> Result<(), LedgerError> {
        self.claim.release(self.noted).await
    }

    fn entry(&self, state: EntryState, bytes: &[u8], until: Timestamp) -> Entry {
        Entry { fingerprint: self.fingerprint, state, bytes: bytes.to_vec(), until }
    }
}
