//! Pauses consuming while an API is down, refuses our token or sets a rate limit (`Retry-After`). Meanwhile single
//! messages probe the API. No attempt counts while the breaker is open.
//!
//! A failure is the event's own if more other events succeeded than failed since the event last failed. Such a failure
//! counts against the event and is no sign of an outage. After eight failures in a row to which only the first half of
//! this applies, the next ones count too. No other failure counts, with the breaker open or closed, because it could
//! be the start of an outage. So a single event without any others is retried until its session is over.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use crate::{
    clock,
    outcome::{Cause, Class, Failure, Outcome},
    retry,
    telemetry::metrics::BreakerMetrics,
    values::{self, Bounded, Period},
};

/// Maximum number of events whose failures are kept. The next one replaces the one with the oldest failure.
const REMEMBERED_MAX: usize = 1024;
/// This many consecutive failures of an event count for nothing if as many other events failed as succeeded since.
const DISPUTES_MAX: u32 = 8;
/// After this many refusals in a row for one event alone, while others succeed in between, the token is not the
/// cause.
const OWN_REFUSALS: u32 = 2;
/// Fewer events than [`BreakerPolicy::failures`] open the breaker if nothing succeeds for this long, because there
/// may be no more events.
const FEW_OPEN_AFTER: Duration = Duration::from_secs(120);

/// Maximum wait of probes and postponed events for the ledger, because probing the ledger costs no API call.
const LEDGER_MAX: Duration = Duration::from_secs(2);

/// Factor from one wait of a postponed event to its next.
const POSTPONED_FACTOR: u32 = 5;

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
    metrics: BreakerMetrics,
    inner: Mutex<BreakerState>,
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

#[derive(Debug, Default)]
struct BreakerState {
    /// Failures since the last success, the time of the first, and the events that failed.
    failures: u32,
    failing_since: Option<Instant>,
    failing: HashSet<EventKey>,
    /// Failed probes since the breaker opened.
    probes: u32,
    opened_at: Option<Instant>,
    /// Shown as closed, because no message waits.
    hidden: bool,
    /// Few events opened the breaker, so any other event may probe at once.
    opened_by_few: bool,
    /// The API's rate limit ends at this time.
    rate_limited_until: Option<Instant>,
    /// Cause of the last failure while open; the ledger only if nothing else failed.
    cause: Option<Cause>,
    /// Start time of the last work that succeeded.
    success: Option<Instant>,
    /// Number of events that succeeded.
    successes: u64,
    /// Number of failures of all events.
    failures_total: u64,
    /// Failed events that have neither succeeded nor died.
    failed: HashMap<EventKey, FailedEvent>,
}

/// State of a failed event.
#[derive(Clone, Copy, Debug)]
struct FailedEvent {
    at: Instant,
    /// Successes and failures of all events at its last failure, that failure included.
    successes: u64,
    failures: u64,
    cause: Cause,
    /// Latest consecutive failures after which other events succeeded, but as many or more failed.
    disputes: u32,
    /// Latest consecutive failures with this cause that followed a success of another event.
    own: u32,
    /// Latest consecutive failures that were unclear.
    unclear: u32,
    /// Latest consecutive failures for which it was postponed.
    postponed: u32,
    /// Last wait until the API works again, and last wait that the API requested.
    wait: Duration,
    retry_after: Duration,
}

impl FailedEvent {
    /// True if nobody can tell whether the last failure was the event's own.
    fn is_disputed(&self) -> bool {
        (1..=DISPUTES_MAX).contains(&self.disputes)
    }
}

impl BreakerState {
    /// Records a failure of `event`.
    fn remember(&mut self, event: EventKey, cause: Cause) -> &mut FailedEvent {
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

/// Classifies an outcome as success, failure or neutral.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    /// The API answered.
    Success,
    /// The API failed.
    Failure,
    /// No call can succeed for now; with a rate limit, for this long.
    Blocked(Option<Duration>),
    /// The API was not called, because the ledger answered.
    LedgerSuccess,
    /// The API was not called.
    Neutral,
}

impl Signal {
    fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Done(_) => Self::Success,
            // Otherwise each duplicate event would close the breaker during an outage.
            Outcome::DoneBefore(_) => Self::LedgerSuccess,
            Outcome::Dead(death) if death.class == Class::Rejected => Self::Success,
            Outcome::TryAgain(failure) | Outcome::Wait(failure) => match (failure.cause, failure.retry_after)
            {
                (Cause::Busy, _) => Self::Neutral,
                (Cause::Token | Cause::Ledger, _) => Self::Blocked(None),
                (Cause::RateLimited, wait) => Self::Blocked(wait),
                (Cause::Unavailable | Cause::Malformed, _) => Self::Failure,
            },
            Outcome::Dead(_) | Outcome::Requeued => Self::Neutral,
        }
    }
}

impl Breaker {
    /// Creates a closed breaker for the API of the stage `stage`.
    #[must_use]
    pub(crate) fn new(stage: &'static str, policy: BreakerPolicy, metrics: BreakerMetrics) -> Self {
        Self { stage, policy, metrics, inner: Mutex::default(), probe_at: watch::Sender::new(None) }
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
            self.metrics.closed();
            info!(stage = self.stage, "breaker half-open: no message waits; the next message probes the API");
        }
    }

    /// Resolves when the breaker is open.
    pub(crate) async fn opened(&self) {
        // The sender lives as long as this breaker, so the wait can't fail.
        _ = self.probe_at.subscribe().wait_for(Option::is_some).await;
    }

    /// Resolves when the breaker is closed.
    #[cfg(test)]
    pub(crate) async fn closed(&self) {
        _ = self.probe_at.subscribe().wait_for(Option::is_none).await;
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
                let verdict = self.failed(event, signal, failure.cause, failure.retry_after, &failure.reason);
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

    /// Shortens a wait that would outlast the session. All copies of the event then wait for the same last attempts.
    fn within_session(
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
        let shorter = retry::shortened(wait, self.policy.probe_initial, deadline, clock::now());
        if shorter == wait {
            return verdict;
        }
        if let Some(failed) = self.inner().failed.get_mut(&event) {
            failed.wait = shorter;
        }
        BreakerVerdict::Postponed(Postponed { wait: shorter, max: max.min(shorter) })
    }

    /// Records that work on `event` exceeded its processing time. The API is the most likely cause.
    pub(crate) fn overdue(&self, event: EventKey) {
        self.failed(
            event,
            Signal::Failure,
            Cause::Unavailable,
            None,
            "processing exceeded amqp.delivery_timeout",
        );
    }

    fn failed(
        &self,
        event: EventKey,
        signal: Signal,
        cause: Cause,
        retry_after: Option<Duration>,
        reason: &str,
    ) -> BreakerVerdict {
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
            self.add_failure(&mut inner, event, signal, cause, reason);
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
    fn longest(&self, cause: Cause) -> Duration {
        if cause == Cause::Ledger { self.policy.probe_max.min(LEDGER_MAX) } else { self.policy.probe_max }
    }

    /// The wait of an event that is postponed for the `times`th time in a row.
    fn postponed(&self, times: u32, cause: Cause) -> Postponed {
        let max = self.longest(cause);
        let factor = POSTPONED_FACTOR.saturating_pow(times.saturating_sub(1));
        Postponed { wait: self.policy.probe_initial.saturating_mul(factor).min(max), max }
    }

    /// Counts a failure whose cause may be the API.
    fn add_failure(
        &self,
        inner: &mut BreakerState,
        event: EventKey,
        signal: Signal,
        cause: Cause,
        reason: &str,
    ) {
        if let Signal::Blocked(wait) = signal {
            if cause == Cause::Token {
                self.metrics.set_token_refused(true);
            }
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

    fn inner(&self) -> MutexGuard<'_, BreakerState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, inner: &mut BreakerState, wait: Option<Duration>, cause: Cause, reason: &str) {
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
        let wait = wait.unwrap_or_else(|| retry::reconnect_wait(initial, max, inner.probes, fastrand::f64()));
        let probe_at = self.probe_at().unwrap_or(now).max(now + wait);
        self.probe_at.send_replace(Some(probe_at));
        let hidden = std::mem::take(&mut inner.hidden);
        if inner.opened_at.is_none() || hidden {
            inner.opened_at.get_or_insert(now);
            self.metrics.opened(cause);
            warn!(
                stage = self.stage,
                reason, "breaker opened; consuming paused (attempts are not counted while it is open)"
            );
        }
    }

    /// Closes the breaker after a success of work that started at `begun`.
    fn close(&self, inner: &mut BreakerState, begun: Instant) {
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
        self.metrics.set_token_refused(false);
        if let Some(since) = inner.opened_at.take() {
            self.probe_at.send_replace(None);
            self.metrics.closed();
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
