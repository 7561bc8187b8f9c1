//! The time before which an API asked for no call (`Retry-After`). One for all tasks; with a ledger, also for a worker that is
//! started again and for the others on the same Redis.

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

use super::limited::Limited;
use crate::{
    ledger::{Ledger, LedgerError},
    retry::RETRY_AFTER_MAX,
};

/// How long the ledger has for an answer. A call never fails because of it.
const LIMIT: Duration = Duration::from_secs(5);
/// How long an answer of a ledger that others write, too, is believed.
const FRESH: Duration = Duration::from_secs(1);
/// How long a ledger that failed is not asked.
const AGAIN: Duration = Duration::from_secs(10);
/// A wait is written if it ends this much later than the one that was written last.
const GROWS: Duration = Duration::from_millis(500);

/// Until when an API is not to be called.
#[derive(Debug, Default)]
pub(super) struct Rest {
    until: Lock<Option<Instant>>,
    kept: Option<Kept>,
    limited: Lock<Limited>,
}

/// The same in the ledger.
struct Kept {
    ledger: Ledger,
    key: String,
    state: Mutex<RestState>,
    failed: AtomicBool,
}

#[derive(Default)]
struct RestState {
    /// When it is read next; never if there is nobody else who writes.
    read_at: Option<Instant>,
    read: bool,
    written: Option<Instant>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Rest {
    /// Kept in `ledger` under `key`.
    pub(super) fn kept_in(ledger: Ledger, key: String) -> Self {
        let kept = Kept { ledger, key, state: Mutex::default(), failed: AtomicBool::new(false) };
        Self { kept: Some(kept), ..Self::default() }
    }

    /// How long the API is still not to be called.
    pub(super) async fn left(&self) -> Option<Duration> {
        let known = self.known();
        if known.is_some() {
            return known;
        }
        if let Some(wait) = self.kept.as_ref()?.read().await {
            self.add(wait.min(RETRY_AFTER_MAX));
        }
        // Another call may have been answered meanwhile.
        self.known()
    }

    /// Takes in that the API is not to be called for `wait`; returns how much longer that is than before.
    pub(super) async fn rest(&self, wait: Duration) -> Duration {
        let more = self.add(wait);
        if let Some(kept) = &self.kept {
            kept.write(wait).await;
        }
        more
    }

    /// A call about `subject`, begun at `begun`, was served.
    pub(super) fn served(&self, subject: &str, begun: Instant) {
        self.limited.lock().unwrap_or_else(PoisonError::into_inner).served(subject, begun);
    }

    /// A call about `subject` is answered with a Retry-After; whether that is no wait for other calls.
    pub(super) fn is_own(&self, subject: &str) -> bool {
        self.limited.lock().unwrap_or_else(PoisonError::into_inner).is_own(subject)
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

impl Kept {
    /// What the ledger says, if it is time to ask.
    async fn read(&self) -> Option<Duration> {
        let mut state = self.state.lock().await;
        let now = Instant::now();
        if state.read_at.map_or(state.read, |at| now < at) {
            return None;
        }
        let wait = self.asked(self.ledger.rests(&self.key)).await;
        let again = match wait {
            Some(_) if self.ledger.is_shared() => Some(FRESH),
            Some(_) => None,
            None => Some(AGAIN),
        };
        state.read = true;
        state.read_at = again.map(|again| Instant::now() + again);
        wait.flatten()
    }

    async fn write(&self, wait: Duration) {
        let mut state = self.state.lock().await;
        let until = Instant::now() + wait;
        if state.written.is_some_and(|written| until < written + GROWS) {
            return;
        }
        if self.asked(self.ledger.rest(&self.key, wait)).await.is_some() {
            state.written = Some(until);
        }
    }

    async fn asked<T>(&self, answer: impl Future<Output = Result<T, LedgerError>>) -> Option<T> {
        let answer = timeout(LIMIT, answer).await.unwrap_or(Err(LedgerError::Slow { limit: LIMIT }));
        match answer {
            Ok(answer) => {
                self.failed.store(false, Ordering::Relaxed);
                Some(answer)
            }
            Err(error) => {
                if !self.failed.swap(true, Ordering::Relaxed) {
                    warn!(%error, "a Retry-After can't be kept in the ledger; other workers, and this one after a restart, don't know of it");
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ledger::LedgerKind, simulation};

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn wait_grows_and_is_known_to_the_next_worker() {
        let ledger = Ledger::open(LedgerKind::Memory).await.unwrap();
        let rest = || Rest::kept_in(ledger.clone(), "rest:api".to_owned());
        let first = rest();
        assert_eq!(first.left().await, None);
        assert_eq!(first.rest(MINUTE).await, MINUTE);
        assert_eq!(first.rest(Duration::from_secs(7)).await, Duration::ZERO, "the longer one counts");
        assert_eq!(first.left().await, Some(MINUTE));
        // The ledger's time is the real one.
        let left = rest().left().await.unwrap();
        assert!((Duration::from_secs(50)..=MINUTE).contains(&left), "{left:?}");
        let other = Rest::kept_in(ledger.clone(), "rest:other".to_owned());
        assert_eq!(other.left().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn ledger_that_is_down_fails_no_call() {
        let (ledger, disk_is_out) = simulation::ledger();
        let rest = Rest::kept_in(ledger, "rest:api".to_owned());
        disk_is_out(true);
        assert_eq!(rest.left().await, None);
        assert_eq!(rest.rest(MINUTE).await, MINUTE);
        assert_eq!(rest.left().await, Some(MINUTE), "known here all the same");
    }
}
