//! Pauses consuming while an API is down, refuses our token or sets a rate limit (`Retry-After`). Meanwhile single
//! messages probe the API. No attempt counts while the breaker is open.
//!
//! A failure is the event's own if more other events succeeded than failed since the event last failed. Such a failure
//! counts against the event and is no sign of an outage. After eight failures in a row to which only the first half of
//! this applies, the next ones count too. No other failure counts, with the breaker open or closed, because it could
//! be the start of an outage. So a single event without any others is retried until its session is over.
//!
//! - `signal`: the meaning of an outcome for the API
//! - `history`: failures that are remembered
//! - `verdict`: the consequence of a failure for its event

mod history;
mod signal;
mod verdict;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

pub(crate) use verdict::{BreakerVerdict, Postponed};

use history::BreakerHistory;
use signal::Signal;

use crate::{
    clock::Clock,
    outcome::{Cause, Failure, Outcome},
    random::Random,
    retry,
    state::BreakerState,
    telemetry::metrics::BreakerMetrics,
    values::{self, Bounded, Period},
};

/// Fewer events than [`BreakerPolicy::failures`] open the breaker if nothing succeeds for this long, because there
/// may be no more events.
const FEW_OPEN_AFTER: Duration = Duration::from_secs(120);

/// The configuration section `breaker`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub struct BreakerPolicy {
    /// Events in a row with failed calls that open the breaker.
    #[serde(deserialize_with = "values::whole::<_, 1, 1000>")]
    #[schemars(with = "Bounded<1, 1000>")]
    pub failures: u32,
    /// First wait between two probes.
    #[serde(deserialize_with = "values::duration")]
    #[schemars(with = "Period")]
    pub probe_initial: Duration,
    /// Maximum wait between two probes.
    #[serde(deserialize_with = "values::duration")]
    #[schemars(with = "Period")]
    pub probe_max: Duration,
}

/// The circuit breaker of one API.
#[derive(Debug)]
pub(crate) struct Breaker {
    stage: &'static str,
    policy: BreakerPolicy,
    state: BreakerState,
    metrics: BreakerMetrics,
    clock: Clock,
    random: Random,
    inner: Mutex<BreakerHistory>,
    /// Time of the next probe; `None` while closed.
    probe_at: watch::Sender<Option<Instant>>,
}

/// Identifies an event by a hash of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EventKey(u64);

impl EventKey {
    /// The key of the event `name`.
    #[must_use]
    pub(crate) fn of(name: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Self(hasher.finish())
    }
}

impl Breaker {
    /// Creates a closed breaker for the API of the stage `stage`.
    #[must_use]
    pub(crate) fn new(
        stage: &'static str,
        policy: BreakerPolicy,
        shown: BreakerState,
        metrics: BreakerMetrics,
        clock: Clock,
        random: Random,
    ) -> Self {
        Self {
            stage,
            policy,
            state: shown,
            metrics,
            clock,
            random,
            inner: Mutex::default(),
            probe_at: watch::Sender::new(None),
        }
    }

    /// Time of the next probe, if the breaker is open.
    #[must_use]
    pub(crate) fn probe_at(&self) -> Option<Instant> {
        *self.probe_at.borrow()
    }

    /// True if the breaker is open and a probe may run now.
    #[must_use]
    pub(crate) fn is_due(&self) -> bool {
        self.probe_at().is_some_and(|at| at <= Instant::now())
    }

    /// Shows the breaker as closed if a probe is due and no message waits for the API. The next failure shows it as open again.
    /// A refused token stays visible, because the next event would meet it.
    pub(crate) fn nothing_waits(&self) {
        let mut inner = self.inner();
        if self.is_due() && inner.cause != Some(Cause::Token) && !std::mem::replace(&mut inner.hidden, true) {
            self.state.set_open(false);
            info!(
                stage = self.stage,
                "breaker shown as closed: no message waited for 15 minutes; the next message probes the API"
            );
        }
    }

    /// Shows the breaker as closed if it is open because of the token. Nothing waits for the API, and the next message tries the new
    /// token.
    pub(crate) fn token_replaced(&self) {
        let mut inner = self.inner();
        if self.is_due() && inner.cause == Some(Cause::Token) && !std::mem::replace(&mut inner.hidden, true) {
            self.token_not_refused(&mut inner);
            self.state.set_open(false);
            info!(
                stage = self.stage,
                "breaker shown as closed: the token was replaced and no message waits; the next message tries the new token"
            );
        }
    }

    /// Resolves when the breaker is open.
    pub(crate) async fn opened(&self) {
        // The sender lives as long as this breaker, so the wait can't fail.
        _ = self.probes().wait_for(Option::is_some).await;
    }

    /// The time of the next probe whenever it changes.
    pub(crate) fn probes(&self) -> watch::Receiver<Option<Instant>> {
        self.probe_at.subscribe()
    }

    /// Records the `outcome` of work on `event` that started at `begun`. Returns the consequence of a failure for the
    /// event, whose session ends at `deadline`.
    pub(crate) fn observe(
        &self,
        event: EventKey,
        begun: Instant,
        outcome: &Outcome,
        deadline: Timestamp,
    ) -> BreakerVerdict {
        match (Signal::of(outcome), outcome) {
            (
                signal @ (Signal::Failure | Signal::Blocked(_)),
                Outcome::TryAgain(failure) | Outcome::Wait(failure),
            ) => {
                let verdict = self.failed(event, begun, signal, failure);
                return self.within_session(event, verdict, failure, deadline);
            }
            (Signal::Success, _) => {
                let mut inner = self.inner();
                inner.failed.remove(&event);
                // A rejected request shows that the API responds, but not that it would process another event.
                if matches!(outcome, Outcome::Done(_)) {
                    inner.success = inner.success.max(Some(begun));
                    inner.successes = inner.successes.saturating_add(1);
                }
                self.close(&mut inner, begun);
            }
            (Signal::LedgerSuccess, _) => {
                let mut inner = self.inner();
                inner.failed.remove(&event);
                if inner.cause == Some(Cause::Ledger) {
                    self.close(&mut inner, begun);
                }
            }
            (_, Outcome::Dead(_)) => _ = self.inner().failed.remove(&event),
            _ => {}
        }
        let open = self.probe_at().is_some();
        if open {
            BreakerVerdict::Postponed(self.postponed(1, Cause::Unavailable))
        } else {
            BreakerVerdict::Own
        }
    }

    /// Records that work on `event`, which started at `begun`, exceeded its processing time. The API is the most likely cause.
    pub(crate) fn overdue(&self, event: EventKey, begun: Instant) {
        let reason = "processing exceeded amqp.delivery_timeout".to_owned();
        self.failed(
            event,
            begun,
            Signal::Failure,
            &Failure { cause: Cause::Unavailable, reason, retry_after: None },
        );
    }

    /// Counts a failure whose cause may be the API.
    fn add_failure(
        &self,
        inner: &mut BreakerHistory,
        event: EventKey,
        begun: Instant,
        signal: Signal,
        Failure { cause, reason, .. }: &Failure,
    ) {
        let mut cause = *cause;
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

    fn token_not_refused(&self, inner: &mut BreakerHistory) {
        inner.refused_at = None;
        self.state.set_token_refused(false);
    }

    fn inner(&self) -> MutexGuard<'_, BreakerHistory> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn close(&self, inner: &mut BreakerHistory, begun: Instant) {
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
}

#[cfg(test)]
mod tests;
