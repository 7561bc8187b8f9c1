//! Stores that only this process uses. The claims are those of the process, so such a store only keeps entries.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};

use super::{
    LedgerError,
    claims::KeyGuard,
    entry::{Change, Entry, EntryState, Fingerprint, Found},
    store::{ClaimResult, Store, StoreClaim},
};
use crate::clock::Clock;

/// Entries by key.
pub trait EntryStore: fmt::Debug + Send + Sync + 'static {
    /// The clock by which entries expire.
    fn clock(&self) -> &Clock;

    /// The entry of `key`, which may have expired.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, LedgerError>>;

    /// Changes the entry of `key` and returns when the change is durable. `guard` is held until then, even if the
    /// caller is cancelled.
    fn write<'a>(
        &'a self,
        key: &'a str,
        change: Change,
        guard: Option<Arc<KeyGuard>>,
    ) -> BoxFuture<'a, Result<(), LedgerError>>;

    /// Number of entries; `None` if the store does not count them.
    fn count(&self) -> BoxFuture<'_, Result<Option<u64>, LedgerError>>;

    /// Number of commits synchronised to the disk.
    fn synchronised(&self) -> u64 {
        0
    }

    /// Finishes pending writes and closes the store.
    fn finish(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

impl<E: EntryStore> Store for E {
    fn claim(
        self: Arc<Self>,
        key: String,
        fingerprint: Fingerprint,
        _patience: Duration,
        guard: Arc<KeyGuard>,
    ) -> BoxFuture<'static, ClaimResult> {
        Box::pin(async move {
            let found = Found::of(self.get(&key).await?, &fingerprint, self.clock().now());
            let claim = EntryClaim { store: self, key, guard };
            Ok((found, Box::new(claim) as Box<dyn StoreClaim>))
        })
    }

    fn read<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, LedgerError>> {
        Box::pin(async move {
            let entry = self.get(key).await?;
            Ok(entry.filter(|entry| entry.until > self.clock().now()).map(|entry| entry.bytes))
        })
    }

    fn set_rate_limit<'a>(&'a self, key: &'a str, wait: Duration) -> BoxFuture<'a, Result<(), LedgerError>> {
        let until = after(self.clock().now(), wait);
        let entry = Entry { fingerprint: [0; 32], state: EntryState::Recorded, bytes: Vec::new(), until };
        Box::pin(async move {
            match self.get(key).await? {
                Some(known) if known.until >= until => Ok(()),
                _ => self.write(key, Change::Put(entry), None).await,
            }
        })
    }

    fn rate_limited_for<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Duration>, LedgerError>> {
        Box::pin(async move {
            let entry = self.get(key).await?;
            let left = entry.map(|entry| entry.until.duration_since(self.clock().now()));
            Ok(left.and_then(|left| Duration::try_from(left).ok()).filter(|left| !left.is_zero()))
        })
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), LedgerError>> {
        Box::pin(async move { self.count().await.map(drop) })
    }

    fn len(&self) -> BoxFuture<'_, Result<Option<u64>, LedgerError>> {
        self.count()
    }

    fn commits(&self) -> u64 {
        self.synchronised()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.finish()
    }
}

/// A claim whose guard is the only protection of its key.
struct EntryClaim<E> {
    store: Arc<E>,
    key: String,
    guard: Arc<KeyGuard>,
}

impl<E: EntryStore> EntryClaim<E> {
    /// Passes the guard with the write. Even if the caller is cancelled, the next claimant sees the written value.
    fn write(&self, change: Change) -> BoxFuture<'_, Result<(), LedgerError>> {
        self.store.write(&self.key, change, Some(self.guard.clone()))
    }
}

impl<E: EntryStore> StoreClaim for EntryClaim<E> {
    fn note(&mut self, entry: Entry) -> BoxFuture<'_, Result<(), LedgerError>> {
        self.write(Change::Put(entry))
    }

    fn record(&mut self, entry: Entry) -> BoxFuture<'_, Result<(), LedgerError>> {
        self.write(Change::Put(entry))
    }

    fn release(&mut self, noted: bool) -> BoxFuture<'_, Result<(), LedgerError>> {
        // Without a note there is nothing to remove, so no commit is needed.
        if noted { self.write(Change::Remove) } else { Box::pin(async { Ok(()) }) }
    }
}

fn after(now: Timestamp, wait: Duration) -> Timestamp {
    SignedDuration::try_from(wait).ok().and_then(|wait| now.checked_add(wait).ok()).unwrap_or(Timestamp::MAX)
}
