//! Opening and closing of a breaker.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::{Breaker, EventKey, history::BreakerHistory, signal::Signal};
use crate::{
    outcome::{Cause, Failure},
    retry,
};

/// Fewer events than the policy's `failures` open the breaker if nothing succeeds for this long, because there may be no
/// more events.
const FEW_OPEN_AFTER: Duration = Duration::from_secs(120);

impl Breaker {
    /// Counts a failure whose cause may be the API.
    pub(super) fn add_failure(
        &self,
        inner: &mut BreakerHistory,
        event: EventKey,
        begun: Instant,
        signal: Signal,
        Failure { cause, reason, .. }: &Failure,
    ) {
        let mut cause = *cause;
        // The token was replaced during this work, and later work succeeded with the new one.
        if cause == Cause::Token
            && inner.opened_at.is_none()
            && inner.success.is_some_and(|success| begun < success)
        {
            return;
        }
        match (cause, inner.refused_at) {
            (Cause::Token, _) => {
                inner.refused_at = Some(Instant::now());
                self.state.set_token_refused(true);
            }
            (Cause::Ledger, _) | (_, None) => {}
            // Earlier work tells nothing about the token.
            (_, Some(refused_at)) if begun < refused_at => cause = Cause::Token,
            // The probe failed for another reason. If the API still refuses the token, the next call that reaches it says so.
            (_, Some(_)) => self.token_not_refused(inner),
        }
        if let Signal::Blocked(wait) = signal {
            let until = wait.and_then(|wait| Instant::now().checked_add(wait));
            inner.rate_limited_until = inner.rate_limited_until.max(until);
            inner.opened_by_few = false;
            return self.open(inner, wait, cause, reason);
        }
        let enough = self.policy.failures as usize;
        inner.failures = inner.failures.saturating_add(1);
        let since = *inner.failing_since.get_or_insert_with(Instant::now);
        if inner.failing.len() < enough {
            inner.failing.insert(event);
        }
        // If a probe was due, this failure was the probe, and the next one must wait.
        if inner.failing.len() >= enough || inner.hidden || (self.is_due() && !inner.opened_by_few) {
            inner.opened_by_few = false;
            self.open(inner, None, cause, reason);
        } else if inner.failures >= self.policy.failures
            && since.elapsed() >= FEW_OPEN_AFTER
            && !inner.opened_by_few
        {
            inner.opened_by_few = true;
            self.open(inner, Some(Duration::ZERO), cause, reason);
        }
    }

    fn open(&self, inner: &mut BreakerHistory, wait: Option<Duration>, cause: Cause, reason: &str) {
        let now = Instant::now();
        // If the ledger fails too, its recovery does not prove that the API works.
        if cause != Cause::Ledger || inner.cause.is_none() {
            inner.cause = Some(cause);
        }
        let due = self.probe_at().is_none_or(|probe_at| probe_at <= now);
        if due {
            inner.probes = inner.probes.saturating_add(1);
        } else if wait.is_none() {
            // This work started before the breaker opened; the next probe is already scheduled.
            return;
        }
        let (initial, max) = (self.policy.probe_initial, self.longest(inner.cause.unwrap_or(cause)));
        let wait =
            wait.unwrap_or_else(|| retry::reconnect_wait(initial, max, inner.probes, self.random.fraction()));
        let probe_at = self.probe_at().unwrap_or(now).max(now + wait);
        self.probe_at.send_replace(Some(probe_at));
        let hidden = std::mem::take(&mut inner.hidden);
        if inner.opened_at.is_none() || hidden {
            inner.opened_at.get_or_insert(now);
            self.state.set_open(true);
            self.metrics.opened(cause);
            warn!(
                stage = self.stage,
                reason, "breaker opened; consuming paused (attempts are not counted while it is open)"
            );
        }
    }

    /// Closes the breaker after a success of work that started at `begun`.
    pub(super) fn close(&self, inner: &mut BreakerHistory, begun: Instant) {
        if let Some(opened_at) = inner.opened_at {
            let rate_limited = inner.rate_limited_until.is_some_and(|until| until > Instant::now());
            // Earlier work proves nothing about now. While the rate limit lasts, no call would be made.
            if begun < opened_at || rate_limited {
                return;
            }
        }
        (inner.failures, inner.probes, inner.cause, inner.failing_since) = (0, 0, None, None);
        (inner.opened_by_few, inner.hidden, inner.rate_limited_until) = (false, false, None);
        inner.failing.clear();
        for failed in inner.failed.values_mut() {
            (failed.unclear, failed.postponed, failed.wait) = (0, 0, Duration::ZERO);
        }
        self.token_not_refused(inner);
        if let Some(since) = inner.opened_at.take() {
            self.probe_at.send_replace(None);
            self.state.set_open(false);
            info!(
                stage = self.stage,
                open_for_s = since.elapsed().as_secs(),
                "breaker closed; consuming resumed"
            );
        }
    }

    pub(super) fn token_not_refused(&self, inner: &mut BreakerHistory) {
        inner.refused_at = None;
        self.state.set_token_refused(false);
    }
}
