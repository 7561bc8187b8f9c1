//! Stops the taking of messages while an API is down, refuses our token or asks for a pause (`Retry-After`), and lets one
//! message at a time find out when that is over. No attempt is counted meanwhile.
//!
//! A failure that only one event meets is that event's own: another event was served since it last failed. It is counted against
//! the event and says nothing of the API. No other failure is counted, whether the breaker is open or closed: nobody can tell it
//! from the start of an outage. So an event that is alone is tried until its session is over.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use crate::{
    outcome::{Cause, Class, Outcome},
    retry,
    telemetry::metrics::BreakerMetrics,
};

/// Most events whose failures are remembered. The next one takes the place of the one that failed longest ago.
const REMEMBERED_MAX: usize = 1024;
/// A token that is refused for one event alone this often in a row, others being served in between, is not to blame.
const OWN_REFUSALS: u32 = 2;
/// Fewer events than [`BreakerPolicy::failures`] open the breaker if nothing is served for this long: there may be no more events.
const FEW_OPEN_AFTER: Duration = Duration::from_secs(120);

/// Longest wait for the ledger, of probes and of events that are postponed: whether it is back costs no API a call.
const LEDGER_MAX: Duration = Duration::from_secs(2);

/// The factor from one wait of an event that is postponed to its next.
const POSTPONED_FACTOR: u32 = 5;

/// When the breaker opens and how it probes.
#[derive(Clone, Copy, Debug)]
pub struct BreakerPolicy {
    /// Events in a row whose calls fail, so that it opens.
    pub failures: u32,
    /// The first wait between two probes.
    pub probe_initial: Duration,
    /// The longest.
    pub probe_max: Duration,
}

/// Guards one API.
#[derive(Debug)]
pub(crate) struct Breaker {
    stage: &'static str,
    policy: BreakerPolicy,
    metrics: BreakerMetrics,
    inner: Mutex<BreakerState>,
    /// When the next probe may be made; none while closed.
    probe_at: watch::Sender<Option<Instant>>,
}

/// Names an event. Of its own name only a hash is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EventKey(u64);

impl EventKey {
    /// The key of the event called `name`.
    #[must_use]
    pub(crate) fn of(name: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// The meaning of a failure for its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerVerdict {
    /// It is the event's own: an attempt is counted.
    Own,
    /// It may be the API's: no attempt is counted. The event is tried again as after its `n`th attempt.
    Unclear(u32),
    /// The API is down, or may be: no attempt is counted, and the event waits for it.
    Postponed(Postponed),
}

/// How long an event waits for an API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Postponed {
    /// Shortest time that the event is to wait: longer each time in a row, so that others come before it.
    pub wait: Duration,
    /// The longest.
    pub max: Duration,
}

#[derive(Debug, Default)]
struct BreakerState {
    /// Failures since the last success, the first of them, and the events that met them.
    failures: u32,
    failing_since: Option<Instant>,
    failing: HashSet<EventKey>,
    /// Probes that failed since it opened.
    probes: u32,
    opened_at: Option<Instant>,
    /// It is shown as closed, because no message waits.
    hidden: bool,
    /// It was opened by few events: each other one is a probe at once.
    few: bool,
    /// The API asked for no call before this.
    rate_limited_until: Option<Instant>,
    /// What failed last while it was open; the ledger only if nothing else did.
    cause: Option<Cause>,
    /// The begin of the last work that succeeded.
    success: Option<Instant>,
    /// Events served so far, and failures so far.
    served: u64,
    failures_ever: u64,
    /// Events that failed and are not over.
    failed: HashMap<EventKey, Failed>,
}

/// An event that failed.
#[derive(Clone, Copy, Debug)]
struct Failed {
    at: Instant,
    /// Events served and failures of all events when it failed last, this failure included.
    served: u64,
    failures: u64,
    cause: Cause,
    /// Others were served since it failed before, and as many or more failed.
    disputed: bool,
    /// Its last failures in a row of this cause that followed the success of another event.
    own: u32,
    /// Its last failures in a row that were unclear.
    unclear: u32,
    /// Those for which it was postponed.
    postponed: u32,
    /// For how long it was postponed the last time: until the API works again, and because the API asked for it.
    wait: Duration,
    asked: Duration,
}

impl BreakerState {
    /// Takes in a failure of `event`.
    fn remember(&mut self, event: EventKey, cause: Cause) -> &mut Failed {
        let now = Instant::now();
        if self.failed.len() >= REMEMBERED_MAX && !self.failed.contains_key(&event) {
            let oldest = self.failed.iter().min_by_key(|(_, failed)| failed.at).map(|(event, _)| *event);
            oldest.and_then(|oldest| self.failed.remove(&oldest));
        }
        let (success, served, failures) = (self.success, self.served, self.failures_ever);
        self.failures_ever = failures.saturating_add(1);
        let failed = self.failed.entry(event).or_insert(Failed {
            at: now,
            served,
            failures,
            cause,
            disputed: false,
            own: 0,
            unclear: 0,
            postponed: 0,
            wait: Duration::ZERO,
            asked: Duration::ZERO,
        });
        // Work that had begun before says nothing of what came after, nor does a failure of another kind of this one.
        // If more of the others failed than were served since then, the API fails in part: no event is to blame.
        let prevails = served.saturating_sub(failed.served) > failures.saturating_sub(failed.failures);
        let own = is_alike(failed.cause, cause) && success.is_some_and(|success| success > failed.at);
        failed.disputed = own && !prevails;
        let own = own && prevails;
        let before = if failed.cause == cause { failed.own } else { 0 };
        failed.own = if own { before.saturating_add(1) } else { 0 };
        (failed.at, failed.cause) = (now, cause);
        (failed.served, failed.failures) = (served, failures.saturating_add(1));
        failed
    }
}

/// Whether failures of these causes can have the same reason.
fn is_alike(one: Cause, other: Cause) -> bool {
    let is_answer = |cause| matches!(cause, Cause::Unavailable | Cause::Malformed | Cause::Token);
    one == other || (is_answer(one) && is_answer(other))
}

/// What an outcome says of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// It answered.
    Works,
    /// It did not.
    Fails,
    /// Nothing will work before this is over.
    Closed(Option<Duration>),
    /// It was not asked, as the ledger answered.
    LedgerWorks,
    /// It was not asked.
    Nothing,
}

impl Sign {
    fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Done(_) => Self::Works,
            // Else an outage would be asked again with every event that comes twice.
            Outcome::DoneBefore(_) => Self::LedgerWorks,
            Outcome::Dead(death) if death.class == Class::Rejected => Self::Works,
            Outcome::TryAgain(failure) | Outcome::Wait(failure) => match (failure.cause, failure.retry_after)
            {
                (Cause::Busy, _) => Self::Nothing,
                (Cause::Token | Cause::Ledger, _) => Self::Closed(None),
                (Cause::RateLimited, wait) => Self::Closed(wait),
                (Cause::Unavailable | Cause::Malformed, _) => Self::Fails,
            },
            Outcome::Dead(_) | Outcome::Requeued => Self::Nothing,
        }
    }
}

impl Breaker {
    /// A closed breaker for the API of the stage called `stage`.
    #[must_use]
    pub(crate) fn new(stage: &'static str, policy: BreakerPolicy, metrics: BreakerMetrics) -> Self {
        Self { stage, policy, metrics, inner: Mutex::default(), probe_at: watch::Sender::new(None) }
    }

    /// When the next probe may be made, if the breaker is open.
    #[must_use]
    pub(crate) fn probe_at(&self) -> Option<Instant> {
        *self.probe_at.borrow()
    }

    /// Whether the breaker is open and a probe may be made now.
    #[must_use]
    pub(crate) fn is_due(&self) -> bool {
        self.probe_at().is_some_and(|at| at <= Instant::now())
    }

    /// Shows a breaker as closed whose probe is due while no message waits: nobody is waiting for the API. The next failure opens it
    /// again at once. A refused token stays shown: the next event would meet it.
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

    /// Learns from the `outcome` of the work on `event` that began at `begun`. Of a failure: what it means for the event.
    pub(crate) fn observe(&self, event: EventKey, begun: Instant, outcome: &Outcome) -> BreakerVerdict {
        match (Sign::of(outcome), outcome) {
            (sign @ (Sign::Fails | Sign::Closed(_)), Outcome::TryAgain(failure) | Outcome::Wait(failure)) => {
                return self.failed(event, sign, failure.cause, failure.retry_after, &failure.reason);
            }
            (Sign::Works, _) => {
                let mut inner = self.inner();
                inner.failed.remove(&event);
                // A refused request shows that the API answers. It doesn't show that the API would serve another event.
                if matches!(outcome, Outcome::Done(_)) {
                    inner.success = inner.success.max(Some(begun));
                    inner.served = inner.served.saturating_add(1);
                }
                self.close(&mut inner, begun);
            }
            (Sign::LedgerWorks, _) => {
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

    /// Learns that the work on `event` was given up without an outcome: most likely it still waits for the API.
    pub(crate) fn overdue(&self, event: EventKey) {
        self.failed(event, Sign::Fails, Cause::Unavailable, None, "no outcome within amqp.delivery_timeout");
    }

    fn failed(
        &self,
        event: EventKey,
        sign: Sign,
        cause: Cause,
        asked: Option<Duration>,
        reason: &str,
    ) -> BreakerVerdict {
        let mut inner = self.inner();
        let was_open = self.probe_at().is_some();
        let Failed { own, disputed, .. } = *inner.remember(event, cause);
        let counted = match (sign, cause) {
            _ if was_open => false,
            // Each is the same for all events.
            (Sign::Closed(Some(_)), _) | (_, Cause::Ledger) => false,
            (_, Cause::Token) => own >= OWN_REFUSALS,
            _ => own > 0,
        };
        // The first refusal after others were served may be a new token's, and so may the next.
        let in_doubt = !was_open && cause == Cause::Token && own > 0;
        // A disputed failure is neither counted nor a sign of an outage. In an outage, failures without any success follow.
        let disputed = disputed && !was_open && (sign == Sign::Fails || cause == Cause::Token);
        if !counted && !in_doubt && !disputed {
            self.add(&mut inner, event, sign, cause, reason);
        }
        let open = self.probe_at().is_some();
        let unclear = sign == Sign::Fails && !open && inner.failures < self.policy.failures;
        let Some(failed) = inner.failed.get_mut(&event) else { return BreakerVerdict::Unclear(1) };
        (failed.wait, failed.asked) = (Duration::ZERO, Duration::ZERO);
        // A wait that this event alone is asked for.
        if let (Sign::Fails, Some(asked)) = (sign, asked) {
            (failed.unclear, failed.postponed) = (0, failed.postponed.saturating_add(1));
            let Postponed { wait, max } = self.postponed(failed.postponed.max(failed.own), cause);
            failed.asked = wait.max(asked);
            return BreakerVerdict::Postponed(Postponed { wait: failed.asked, max: max.max(asked) });
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

    /// How long `event` is still to wait, because it was postponed: another copy of it would meet the same.
    #[must_use]
    pub(crate) fn waits(&self, event: EventKey) -> Option<Postponed> {
        let failed = self.inner().failed.get(&event).copied()?;
        // The copy that was postponed itself may be back a little early by another clock.
        let left = failed.wait.max(failed.asked).mul_f64(0.9).saturating_sub(failed.at.elapsed());
        (!left.is_zero()).then_some(Postponed { wait: left, max: self.policy.probe_max.max(left) })
    }

    /// The longest wait after a failure of this cause.
    fn longest(&self, cause: Cause) -> Duration {
        if cause == Cause::Ledger { self.policy.probe_max.min(LEDGER_MAX) } else { self.policy.probe_max }
    }

    /// What becomes of an event that is postponed for the `times`th time in a row.
    fn postponed(&self, times: u32, cause: Cause) -> Postponed {
        let max = self.longest(cause);
        let factor = POSTPONED_FACTOR.saturating_pow(times.saturating_sub(1));
        Postponed { wait: self.policy.probe_initial.saturating_mul(factor).min(max), max }
    }

    /// Adds a failure that may be the API's to those in a row.
    fn add(&self, inner: &mut BreakerState, event: EventKey, sign: Sign, cause: Cause, reason: &str) {
        if let Sign::Closed(wait) = sign {
            if cause == Cause::Token {
                self.metrics.set_token_refused(true);
            }
            let until = wait.and_then(|wait| Instant::now().checked_add(wait));
            inner.rate_limited_until = inner.rate_limited_until.max(until);
            inner.few = false;
            return self.open(inner, wait, cause, reason);
        }
        let enough = self.policy.failures as usize;
        inner.failures = inner.failures.saturating_add(1);
        let since = *inner.failing_since.get_or_insert_with(Instant::now);
        if inner.failing.len() < enough {
            inner.failing.insert(event);
        }
        // Whatever opened it: if a probe was due, this was one, and the next has to wait.
        if inner.failing.len() >= enough || (self.is_due() && !inner.few) {
            inner.few = false;
            self.open(inner, None, cause, reason);
        } else if inner.failures >= self.policy.failures && since.elapsed() >= FEW_OPEN_AFTER && !inner.few {
            inner.few = true;
            self.open(inner, Some(Duration::ZERO), cause, reason);
        }
    }

    fn inner(&self) -> MutexGuard<'_, BreakerState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, inner: &mut BreakerState, wait: Option<Duration>, cause: Cause, reason: &str) {
        let now = Instant::now();
        // A ledger that fails as well is no reason to believe that all is well when it is back.
        if cause != Cause::Ledger || inner.cause.is_none() {
            inner.cause = Some(cause);
        }
        let due = self.probe_at().is_none_or(|probe_at| probe_at <= now);
        if due {
            inner.probes = inner.probes.saturating_add(1);
        } else if wait.is_none() {
            // A straggler of before: the next probe is set already.
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
                reason,
                "breaker open: no more messages are taken until this passes; nothing is counted against them"
            );
        }
    }

    /// Closes after work that began at `begun` succeeded.
    fn close(&self, inner: &mut BreakerState, begun: Instant) {
        if let Some(opened_at) = inner.opened_at {
            let rate_limited = inner.rate_limited_until.is_some_and(|until| until > Instant::now());
            // Work of before says nothing of now. And as long as the API asked for, no call would be made.
            if begun < opened_at || rate_limited {
                return;
            }
        }
        (inner.failures, inner.probes, inner.cause, inner.failing_since) = (0, 0, None, None);
        (inner.few, inner.hidden, inner.rate_limited_until) = (false, false, None);
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
                after_s = since.elapsed().as_secs(),
                "breaker closed: messages are taken again"
            );
        }
    }
}

#[cfg(test)]
mod tests;
