//! The consequence of a failure for its event.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{Breaker, EventKey, signal::Signal};
use crate::{
    outcome::{Cause, Failure},
    retry,
};

/// After this many refusals in a row for one event alone, while others succeed in between, the token is not the
/// cause.
const OWN_REFUSALS: u32 = 2;
/// Maximum wait of probes and postponed events for the ledger, because probing the ledger costs no API call.
pub(super) const LEDGER_MAX: Duration = Duration::from_secs(2);
/// Factor from one wait of a postponed event to its next.
const POSTPONED_FACTOR: u32 = 5;

/// The consequence of a failure for its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerVerdict {
    /// The failure is the event's own; an attempt counts.
    Own,
    /// The API may be the cause; no attempt counts. The event is retried with the wait after its `n`th attempt.
    Unclear(u32),
    /// The API is down, or may be; no attempt counts, and the event is postponed.
    Postponed(Postponed),
}

/// The wait of an event for an API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Postponed {
    /// Minimum wait. It grows with each postponement in a row, so that other events come first.
    pub wait: Duration,
    /// Maximum wait.
    pub max: Duration,
}

impl Breaker {
    /// Shortens a wait that would outlast the session. All copies of the event then wait for the same last attempts.
    pub(super) fn within_session(
        &self,
        event: EventKey,
        verdict: BreakerVerdict,
        failure: &Failure,
        deadline: Timestamp,
    ) -> BreakerVerdict {
        let BreakerVerdict::Postponed(Postponed { wait, max }) = verdict else { return verdict };
        if failure.retry_after.is_some() {
            return verdict;
        }
        let shorter = retry::shortened(wait, self.policy.probe_initial, deadline, self.clock.now());
        if shorter == wait {
            return verdict;
        }
        if let Some(failed) = self.inner().failed.get_mut(&event) {
            failed.wait = shorter;
        }
        BreakerVerdict::Postponed(Postponed { wait: shorter, max: max.min(shorter) })
    }

    pub(super) fn failed(
        &self,
        event: EventKey,
        begun: Instant,
        signal: Signal,
        failure: &Failure,
    ) -> BreakerVerdict {
        let Failure { cause, retry_after, .. } = *failure;
        let mut inner = self.inner();
        let was_open = self.probe_at().is_some();
        let failed = inner.remember(event, cause);
        let (own, disputed) = (failed.own, failed.is_disputed());
        let counted = match (signal, cause) {
            _ if was_open => false,
            // These failures are the same for all events.
            (Signal::Blocked(Some(_)), _) | (_, Cause::Ledger) => false,
            (_, Cause::Token) => own >= OWN_REFUSALS,
            _ => own > 0,
        };
        // A refusal after a success of others may come from a new token, and so may the next one.
        let may_be_new_token = !was_open && cause == Cause::Token && own > 0;
        // A disputed failure neither counts nor opens the breaker. An outage brings failures without a success between them.
        let disputed = disputed && !was_open && (signal == Signal::Failure || cause == Cause::Token);
        if !counted && !may_be_new_token && !disputed {
            self.add_failure(&mut inner, event, begun, signal, failure);
        }
        let open = self.probe_at().is_some();
        let unclear = signal == Signal::Failure && !open && inner.failures < self.policy.failures;
        let Some(failed) = inner.failed.get_mut(&event) else { return BreakerVerdict::Unclear(1) };
        (failed.wait, failed.retry_after) = (Duration::ZERO, Duration::ZERO);
        // A wait that the API requested for this event alone.
        if let (Signal::Failure, Some(retry_after)) = (signal, retry_after) {
            (failed.unclear, failed.postponed) = (0, failed.postponed.saturating_add(1));
            let Postponed { wait, max } = self.postponed(failed.postponed.max(failed.own), cause);
            failed.retry_after = wait.max(retry_after);
            return BreakerVerdict::Postponed(Postponed {
                wait: failed.retry_after,
                max: max.max(retry_after),
            });
        }
        if counted {
            (failed.unclear, failed.postponed) = (0, 0);
            return BreakerVerdict::Own;
        }
        if unclear {
            (failed.unclear, failed.postponed) = (failed.unclear.saturating_add(1), 0);
            return BreakerVerdict::Unclear(failed.unclear);
        }
        failed.postponed = failed.postponed.saturating_add(1);
        let postponed = self.postponed(failed.postponed, cause);
        failed.wait = postponed.wait;
        BreakerVerdict::Postponed(postponed)
    }

    /// Remaining wait of `event` if it was postponed, because another copy of it would fail in the same way.
    #[must_use]
    pub(crate) fn waits(&self, event: EventKey) -> Option<Postponed> {
        let failed = self.inner().failed.get(&event).copied()?;
        // The postponed copy itself may return slightly early by another clock.
        let left = failed.wait.max(failed.retry_after).mul_f64(0.9).saturating_sub(failed.at.elapsed());
        (!left.is_zero()).then_some(Postponed { wait: left, max: self.policy.probe_max.max(left) })
    }

    /// Maximum wait after a failure with this cause.
    pub(super) fn longest(&self, cause: Cause) -> Duration {
        if cause == Cause::Ledger { self.policy.probe_max.min(LEDGER_MAX) } else { self.policy.probe_max }
    }

    /// The wait of an event that is postponed for the `times`th time in a row.
    pub(super) fn postponed(&self, times: u32, cause: Cause) -> Postponed {
        let max = self.longest(cause);
        let factor = POSTPONED_FACTOR.saturating_pow(times.saturating_sub(1));
        Postponed { wait: self.policy.probe_initial.saturating_mul(factor).min(max), max }
    }
}
