//! The interface between the ledger and its stores.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use super::{
    LedgerError,
    claims::KeyGuard,
    entry::{Entry, Fingerprint, Found},
};

/// Result of a claim in a store.
pub(crate) type ClaimResult = Result<(Found, Box<dyn StoreClaim>), LedgerError>;

/// Claims and entries of one kind of ledger.
pub(crate) trait Store: fmt::Debug + Send + Sync {
    /// Claims `key` for content with this `fingerprint`. If another process holds the claim, waits for at most
    /// `patience`. The claim in the store keeps `guard` until the next claimant sees all that was written.
    fn claim(
        self: Arc<Self>,
        key: String,
        fingerprint: Fingerprint,
        patience: Duration,
        guard: Arc<KeyGuard>,
    ) -> BoxFuture<'static, ClaimResult>;

    /// The note or the result of `key`, whoever claims it.
    fn read<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, LedgerError>>;

    /// Stores that `key` is rate limited for `wait`, unless a longer wait is stored.
    fn set_rate_limit<'a>(&'a self, key: &'a str, wait: Duration) -> BoxFuture<'a, Result<(), LedgerError>>;

    /// Remaining time for which `key` is rate limited.
    fn rate_limited_for<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Duration>, LedgerError>>;

    /// True if other processes can write to this store.
    fn is_shared(&self) -> bool {
        false
    }

    /// Checks that the store is usable.
    fn ping(&self) -> BoxFuture<'_, Result<(), LedgerError>>;

    /// Output of Redis's `INFO` command; `None` for other stores.
    fn info(&self) -> BoxFuture<'_, Result<Option<String>, LedgerError>> {
        Box::pin(async { Ok(None) })
    }

    /// Number of entries; `None` if counting them is too expensive.
    fn len(&self) -> BoxFuture<'_, Result<Option<u64>, LedgerError>>;

    /// Number of commits synchronised to the disk.
    fn commits(&self) -> u64;

    /// Finishes pending writes and closes the store.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// A claim in a store. Dropping it ends the claim and keeps a note.
pub(crate) trait StoreClaim: Send + Sync {
    /// Writes the note `entry` durably.
    fn note(&mut self, entry: Entry) -> BoxFuture<'_, Result<(), LedgerError>>;

    /// Writes the result `entry` durably, and replaces any note.
    fn record(&mut self, entry: Entry) -> BoxFuture<'_, Result<(), LedgerError>>;

    /// Ends the claim and removes any note. `noted` is false if the store can't hold a note.
    fn release(&mut self, noted: bool) -> BoxFuture<'_, Result<(), LedgerError>>;
}
