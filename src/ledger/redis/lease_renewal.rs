//! The lease of a held claim in Redis: it expires unless it is renewed.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{task::AbortHandle, time::sleep};

use super::{ClaimNames, Redis, done};
use crate::ledger::{LedgerError, claims::KeyGuard, entry::Entry, store::StoreClaim};

/// Lifetime of a claim that is not renewed, for example because its worker was killed.
pub(super) const LEASE: Duration = Duration::from_secs(30);
/// Interval of lease renewals. Two renewals may time out before the lease expires.
const RENEW_EVERY: Duration = Duration::from_secs(10);

/// A claim in Redis with its lease. Dropping it tells Redis that the claim has ended, and keeps a note. The guard of
/// this process is released when Redis has responded.
pub(super) struct HeldLease {
    pub(super) redis: Arc<Redis>,
    pub(super) names: ClaimNames,
    pub(super) guard: Option<Arc<KeyGuard>>,
    pub(super) renewal: Option<AbortHandle>,
    /// True if there is nothing to tell Redis when this claim is dropped.
    pub(super) ended: bool,
}

impl HeldLease {
    pub(super) async fn call(
        &self,
        op: &'static str,
        until_ms: i64,
        bytes: &[u8],
    ) -> Result<Vec<Vec<u8>>, LedgerError> {
        self.redis.call(&self.names, op, until_ms, bytes).await
    }

    /// Starts to renew this claim in the background.
    pub(super) fn renewed(mut self) -> Self {
        let same = self.detached_copy();
        let renewal = tokio::spawn(async move {
            loop {
                sleep(RENEW_EVERY).await;
                // A failed renewal may succeed next time; the next use of the lease detects a lost claim.
                _ = same.call("renew", 0, b"").await;
            }
        });
        self.renewal = Some(renewal.abort_handle());
        self
    }

    /// The same claim for a background task; dropping this copy does nothing.
    fn detached_copy(&self) -> Self {
        let (redis, names) = (self.redis.clone(), self.names.clone());
        Self { redis, names, guard: None, renewal: None, ended: true }
    }
}

impl StoreClaim for HeldLease {
    fn note(&mut self, entry: Entry) -> BoxFuture<'_, Result<(), LedgerError>> {
        Box::pin(async move { done(&self.call("note", entry.until.as_millisecond(), &entry.bytes).await?) })
    }

    fn record(&mut self, entry: Entry) -> BoxFuture<'_, Result<(), LedgerError>> {
        Box::pin(async move {
            let answer = self.call("record", entry.until.as_millisecond(), &entry.bytes).await?;
            self.ended = true;
            done(&answer)
        })
    }

    fn release(&mut self, _noted: bool) -> BoxFuture<'_, Result<(), LedgerError>> {
        Box::pin(async move {
            let answer = self.call("release", 0, b"").await?;
            self.ended = true;
            done(&answer)
        })
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        if let Some(renewal) = self.renewal.take() {
            renewal.abort();
        }
        if !self.ended
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (same, guard) = (self.detached_copy(), self.guard.take());
            if let Some(guard) = &guard {
                guard.stop_acting();
            }
            runtime.spawn(async move {
                // If this fails, the lease expires.
                _ = same.call("abandon", 0, b"").await;
                drop(guard);
            });
        }
    }
}
