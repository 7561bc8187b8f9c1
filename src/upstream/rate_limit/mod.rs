//! Rate limit of an API (`Retry-After`), shared by all tasks. With a ledger, the limit also applies after a restart of
//! the worker, and to the other workers on the same Redis.
//!
//! # Life of a 429
//!
//! 1. [`Upstream::answer`](super::Upstream::answer) receives the response. [`requested_wait`] reads its Retry-After; without
//!    one, the wait is [`UpstreamLimits::rate_limit_wait`](super::UpstreamLimits::rate_limit_wait). Webex Connect's codes are read
//!    by its client, which then calls [`Upstream::refused_with`](super::Upstream::refused_with). The error has the cause
//!    [`RateLimited`](super::ErrorCause::RateLimited). A 5xx with a Retry-After takes the same path.
//! 2. [`RateLimit::is_for_subject_only`] decides if only this subject must wait. The cause then becomes
//!    [`Transient`](super::ErrorCause::Transient), and step 3 is skipped.
//! 3. [`RateLimit::set`] blocks all calls of the API, and [`StoredLimit::write`] writes the wait to the ledger. Until the
//!    wait is over ([`RateLimit::remaining`]), calls are skipped and fail with the rest of the wait.
//! 4. [`into_outcome`](super::UpstreamError::into_outcome) makes the error an
//!    [`Outcome::TryAgain`](crate::outcome::Outcome::TryAgain) with the wait.
//! 5. [`Breaker::observe`](crate::breaker::Breaker::observe) opens the breaker until a wait for all calls is over. A wait for
//!    one subject postpones only its event.
//! 6. [`Settler::try_again`](crate::broker::settle::Settler::try_again) puts a copy of the message into a delay queue. No
//!    attempt counts. [`retry::postpone`](crate::retry::postpone) gives the message up only if the session ends before the
//!    wait is over.

mod header;
mod stored;
mod subjects;

use std::{
    sync::{Mutex as Lock, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

pub use self::header::parse_retry_after;
pub(super) use self::header::{RETRY_AFTER_MIN, date, requested_wait};
use self::{stored::StoredLimit, subjects::LimitedSubjects};
use crate::{ledger::Ledger, retry::RETRY_AFTER_MAX};

/// Time until which an API must not be called.
#[derive(Debug, Default)]
pub(super) struct RateLimit {
    until: Lock<Option<Instant>>,
    stored: Option<StoredLimit>,
    subjects: Lock<LimitedSubjects>,
}

impl RateLimit {
    /// A rate limit that is also stored in `ledger` under `key`.
    pub(super) fn stored_in(ledger: Ledger, key: String) -> Self {
        Self { stored: Some(StoredLimit::new(ledger, key)), ..Self::default() }
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
