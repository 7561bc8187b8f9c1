//! Rate limit of an API (`Retry-After`), shared by all tasks. With a ledger, the limit also applies after a restart of
//! the worker, and to the other workers on the same Redis.

use std::{
    fmt,
    future::Future,
    sync::{
        Mutex as Lock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use tracing::warn;

use super::limited_subjects::LimitedSubjects;
use crate::{
    ledger::{Ledger, LedgerError},
    retry::RETRY_AFTER_MAX,
};

/// Time limit for a ledger operation. A call never fails because of the ledger.
const LIMIT: Duration = Duration::from_secs(5);
/// Time for which a value read from a shared ledger is used.
const FRESH: Duration = Duration::from_secs(1);
/// Pause of reads after a ledger failure.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// Minimum extension over the last written wait for a new write.
const GROWTH_MIN: Duration = Duration::from_millis(500);

/// Time until which an API must not be called.
#[derive(Debug, Default)]
pub(super) struct RateLimit {
    until: Lock<Option<Instant>>,
    stored: Option<StoredLimit>,
    subjects: Lock<LimitedSubjects>,
}

/// The copy of a rate limit in the ledger.
struct StoredLimit {
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

impl RateLimit {
    /// A rate limit that is also stored in `ledger` under `key`.
    pub(super) fn stored_in(ledger: Ledger, key: String) -> Self {
        let stored = StoredLimit { ledger, key, state: Mutex::default(), failed: AtomicBool::new(false) };
        Self { stored: Some(stored), ..Self::default() }
    }

    /// Remaining time for which the API must not be called.
    pub(super) async fn remaining(&self) -> Option<Duration> {
        let known = self.known();
        if known.is_some() {
            return known;
        }
        if let Some(wait) = self.stored.as_ref()?.read().await {
            self.add(wait.min(RETRY_AFTER_MAX));
        }
        // Another call may have got a Retry-After in the meantime.
        self.known()
    }

    /// Blocks calls of the API for `wait`. Returns the extension over the previous limit.
    pub(super) async fn set(&self, wait: Duration) -> Duration {
        let extension = self.add(wait);
        if let Some(stored) = &self.stored {
            stored.write(wait).await;
        }
        extension
    }

    /// Records a successful call for `subject` that started at `started`.
    pub(super) fn succeeded(&self, subject: &str, started: Instant) {
        self.subjects.lock().unwrap_or_else(PoisonError::into_inner).succeeded(subject, started);
    }

    /// Records a Retry-After for `subject`. Returns true if the limit does not apply to other calls.
    pub(super) fn is_for_subject_only(&self, subject: &str) -> bool {
        self.subjects.lock().unwrap_or_else(PoisonError::into_inner).limit(subject)
    }

    fn known(&self) -> Option<Duration> {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.and_then(|at| at.checked_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    fn add(&self, wait: Duration) -> Duration {
        let mut known = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let before = known.unwrap_or(now).max(now);
        *known = (*known).max(now.checked_add(wait));
        known.map_or(Duration::ZERO, |until| until.saturating_duration_since(before))
    }
}

impl StoredLimit {
    /// Reads the wait from the ledger, if a read is due.
    async fn read(&self) -> Option<Duration> {
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

    async fn write(&self, wait: Duration) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{LedgerKind, testing};

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn longest_wait_applies_and_the_next_worker_reads_it() {
        let ledger = Ledger::open(LedgerKind::Memory).await.unwrap();
        let rate_limit = || RateLimit::stored_in(ledger.clone(), "rest:api".to_owned());
        let first = rate_limit();
        assert_eq!(first.remaining().await, None);
        assert_eq!(first.set(MINUTE).await, MINUTE);
        assert_eq!(first.set(Duration::from_secs(7)).await, Duration::ZERO, "the longer wait applies");
        assert_eq!(first.remaining().await, Some(MINUTE));
        // The ledger uses real time.
        let remaining = rate_limit().remaining().await.unwrap();
        assert!((Duration::from_secs(50)..=MINUTE).contains(&remaining), "{remaining:?}");
        let other = RateLimit::stored_in(ledger.clone(), "rest:other".to_owned());
        assert_eq!(other.remaining().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn rate_limit_works_without_the_ledger() {
        let (ledger, disk_is_out) = testing::ledger();
        let rate_limit = RateLimit::stored_in(ledger, "rest:api".to_owned());
        disk_is_out(true);
        assert_eq!(rate_limit.remaining().await, None);
        assert_eq!(rate_limit.set(MINUTE).await, MINUTE);
        assert_eq!(rate_limit.remaining().await, Some(MINUTE), "still known in this process");
    }
}
