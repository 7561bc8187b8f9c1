//! The failures that a breaker remembers.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;

use super::EventKey;
use crate::outcome::Cause;

/// Maximum number of events whose failures are kept. The next one replaces the one with the oldest failure.
pub(super) const REMEMBERED_MAX: usize = 1024;
/// This many consecutive failures of an event count for nothing if as many other events failed as succeeded since.
pub(super) const DISPUTES_MAX: u32 = 8;

#[derive(Debug, Default)]
pub(super) struct BreakerHistory {
    /// Failures since the last success, the time of the first, and the events that failed.
    pub(super) failures: u32,
    pub(super) failing_since: Option<Instant>,
    pub(super) failing: HashSet<EventKey>,
    /// Failed probes since the breaker opened.
    pub(super) probes: u32,
    pub(super) opened_at: Option<Instant>,
    /// Shown as closed, because no message waits.
    pub(super) hidden: bool,
    /// Few events opened the breaker, so any other event may probe at once.
    pub(super) opened_by_few: bool,
    /// The API's rate limit ends at this time.
    pub(super) rate_limited_until: Option<Instant>,
    /// The API refused the token at this time, and it is not known that it accepts one now.
    pub(super) refused_at: Option<Instant>,
    /// Cause of the last failure while open; the ledger only if nothing else failed.
    pub(super) cause: Option<Cause>,
    /// Start time of the last work that succeeded.
    pub(super) success: Option<Instant>,
    /// Number of events that succeeded.
    pub(super) successes: u64,
    /// Number of failures of all events.
    pub(super) failures_total: u64,
    /// Failed events that have neither succeeded nor died.
    pub(super) failed: HashMap<EventKey, FailedEvent>,
}

/// State of a failed event.
#[derive(Clone, Copy, Debug)]
pub(super) struct FailedEvent {
    pub(super) at: Instant,
    /// Successes and failures of all events at its last failure, that failure included.
    pub(super) successes: u64,
    pub(super) failures: u64,
    pub(super) cause: Cause,
    /// Latest consecutive failures after which other events succeeded, but as many or more failed.
    pub(super) disputes: u32,
    /// Latest consecutive failures with this cause that followed a success of another event.
    pub(super) own: u32,
    /// Latest consecutive failures that were unclear.
    pub(super) unclear: u32,
    /// Latest consecutive failures for which it was postponed.
    pub(super) postponed: u32,
    /// Last wait until the API works again, and last wait that the API requested.
    pub(super) wait: Duration,
    pub(super) retry_after: Duration,
}

impl FailedEvent {
    /// True if nobody can tell whether the last failure was the event's own.
    pub(super) fn is_disputed(&self) -> bool {
        (1..=DISPUTES_MAX).contains(&self.disputes)
    }
}

impl BreakerHistory {
    /// Records a failure of `event`.
    pub(super) fn remember(&mut self, event: EventKey, cause: Cause) -> &mut FailedEvent {
        let now = Instant::now();
        if self.failed.len() >= REMEMBERED_MAX && !self.failed.contains_key(&event) {
            let oldest = self.failed.iter().min_by_key(|(_, failed)| failed.at).map(|(event, _)| *event);
            oldest.and_then(|oldest| self.failed.remove(&oldest));
        }
        let (success, successes, failures) = (self.success, self.successes, self.failures_total);
        self.failures_total = failures.saturating_add(1);
        let failed = self.failed.entry(event).or_insert(FailedEvent {
            at: now,
            successes,
            failures,
            cause,
            disputes: 0,
            own: 0,
            unclear: 0,
            postponed: 0,
            wait: Duration::ZERO,
            retry_after: Duration::ZERO,
        });
        // Work that started before the failure proves nothing about the time after it. A failure of another kind
        // proves nothing either.
        // If more events failed than succeeded since then, the API fails partially and no event is to blame.
        let prevails = successes.saturating_sub(failed.successes) > failures.saturating_sub(failed.failures);
        let own = is_alike(failed.cause, cause) && success.is_some_and(|success| success > failed.at);
        // An event that fails without end must end all the same, even if few others are processed.
        failed.disputes = if own && !prevails { failed.disputes.saturating_add(1) } else { 0 };
        let own = own && !failed.is_disputed();
        let before = if failed.cause == cause { failed.own } else { 0 };
        failed.own = if own { before.saturating_add(1) } else { 0 };
        (failed.at, failed.cause) = (now, cause);
        (failed.successes, failed.failures) = (successes, failures.saturating_add(1));
        failed
    }
}

/// True if failures with these causes can have the same reason.
fn is_alike(one: Cause, other: Cause) -> bool {
    let is_answer = |cause| matches!(cause, Cause::Unavailable | Cause::Malformed | Cause::Token);
    one == other || (is_answer(one) && is_answer(other))
}
