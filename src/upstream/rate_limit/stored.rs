//! The copy of a rate limit in the ledger.

use std::{
    fmt,
    future::Future,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use tracing::warn;

use crate::ledger::{Ledger, LedgerError};

/// Time limit for a ledger operation. A call never fails because of the ledger.
const LIMIT: Duration = Duration::from_secs(5);
/// Time for which a value read from a shared ledger is used.
const FRESH: Duration = Duration::from_secs(1);
/// Pause of reads after a ledger failure.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// Minimum extension over the last written wait for a new write.
const GROWTH_MIN: Duration = Duration::from_millis(500);

/// The copy of a rate limit in the ledger.
pub(super) struct StoredLimit {
    ledger: Ledger,
    key: String,
    state: Mutex<StoredState>,
    failed: AtomicBool,
}

#[derive(Default)]
struct StoredState {
    /// Time of the next read; `None` if no other process writes to the ledger.
    read_at: Option<Instant>,
    read: bool,
    written: Option<Instant>,
}

impl fmt::Debug for StoredLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredLimit").field("key", &self.key).finish_non_exhaustive()
    }
}

impl StoredLimit {
    pub(super) fn new(ledger: Ledger, key: String) -> Self {
        Self { ledger, key, state: Mutex::default(), failed: AtomicBool::new(false) }
    }

    /// Reads the wait from the ledger, if a read is due.
    pub(super) async fn read(&self) -> Option<Duration> {
        let mut state = self.state.lock().await;
        let now = Instant::now();
        if state.read_at.map_or(state.read, |at| now < at) {
            return None;
        }
        let wait = self.run(self.ledger.rate_limited_for(&self.key)).await;
        let pause = match wait {
            Some(_) if self.ledger.is_shared() => Some(FRESH),
            Some(_) => None,
            None => Some(RETRY_PAUSE),
        };
        state.read = true;
        state.read_at = pause.map(|pause| Instant::now() + pause);
        wait.flatten()
    }

    /// Writes the wait, unless about the same end was written before.
    pub(super) async fn write(&self, wait: Duration) {
        let mut state = self.state.lock().await;
        let until = Instant::now() + wait;
        if state.written.is_some_and(|written| until < written + GROWTH_MIN) {
            return;
        }
        if self.run(self.ledger.set_rate_limit(&self.key, wait)).await.is_some() {
            state.written = Some(until);
        }
    }

    /// Runs a ledger operation within [`LIMIT`]; logs only the first of several failures in a row.
    async fn run<T>(&self, operation: impl Future<Output = Result<T, LedgerError>>) -> Option<T> {
        let result = timeout(LIMIT, operation).await.unwrap_or(Err(LedgerError::Slow { limit: LIMIT }));
        match result {
            Ok(value) => {
                self.failed.store(false, Ordering::Relaxed);
                Some(value)
            }
            Err(error) => {
                if !self.failed.swap(true, Ordering::Relaxed) {
                    warn!(
                        %error,
                        "cannot read or write rate limits in the ledger; a Retry-After does not reach other workers, or \
                         this worker after a restart"
                    );
                }
                None
            }
        }
    }
}
