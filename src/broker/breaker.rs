//! Stops the taking of messages while an API is down, refuses our token or asked to be left alone, and lets one message
//! at a time find out when that is over. No attempt is counted meanwhile.

use std::{
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

/// When the breaker opens and how it probes.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Failures in a row that open it.
    pub failures: u32,
    /// The first wait between two probes.
    pub probe_initial: Duration,
    /// The longest.
    pub probe_max: Duration,
}

/// Guards one API.
#[derive(Debug)]
pub struct Breaker {
    stage: &'static str,
    policy: Policy,
    metrics: BreakerMetrics,
    inner: Mutex<Inner>,
    /// When the next probe may be made; none while closed.
    probe_at: watch::Sender<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Failures since the last success.
    failures: u32,
    /// Probes that failed since it opened.
    probes: u32,
    opened_at: Option<Instant>,
    /// What failed last while it was open; the ledger only if nothing else did.
    cause: Option<Cause>,
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
                (_, Some(wait)) => Self::Closed(Some(wait)),
                (_, None) => Self::Fails,
            },
            Outcome::Dead(_) | Outcome::HandedBack => Self::Nothing,
        }
    }
}

impl Breaker {
    /// A closed breaker for the API of the stage called `stage`.
    #[must_use]
    pub fn new(stage: &'static str, policy: Policy, metrics: BreakerMetrics) -> Self {
        Self { stage, policy, metrics, inner: Mutex::default(), probe_at: watch::Sender::new(None) }
    }

    /// When the next probe may be made, where the breaker is open.
    #[must_use]
    pub fn probe_at(&self) -> Option<Instant> {
        *self.probe_at.borrow()
    }

    /// Resolves when the breaker is open.
    pub async fn opened(&self) {
        // The sender lives as long as this breaker, so the wait can't fail.
        _ = self.probe_at.subscribe().wait_for(Option::is_some).await;
    }

    /// Learns from `outcome`.
    pub fn observe(&self, outcome: &Outcome) {
        match (Sign::of(outcome), outcome) {
            (Sign::Works, _) => self.close(),
            (Sign::LedgerWorks, _) if self.inner().cause == Some(Cause::Ledger) => self.close(),
            (Sign::Fails, Outcome::TryAgain(failure) | Outcome::Wait(failure)) => {
                self.failed(failure.cause, &failure.reason);
            }
            (Sign::Closed(wait), Outcome::TryAgain(failure) | Outcome::Wait(failure)) => {
                if failure.cause == Cause::Token {
                    self.metrics.set_token_refused(true);
                }
                self.open(&mut self.inner(), wait, failure.cause, &failure.reason);
            }
            _ => {}
        }
    }

    /// Learns that a stage was given up on without an outcome: most likely it still waits for the API.
    pub fn overdue(&self) {
        self.failed(Cause::Unavailable, "no outcome within amqp.hold_max");
    }

    fn failed(&self, cause: Cause, reason: &str) {
        let mut inner = self.inner();
        inner.failures = inner.failures.saturating_add(1);
        // Whatever opened it: where it is time for a probe, this was one, and the next has to wait.
        let probed = self.probe_at().is_some_and(|probe_at| probe_at <= Instant::now());
        if probed || inner.failures >= self.policy.failures {
            self.open(&mut inner, None, cause, reason);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, inner: &mut Inner, wait: Option<Duration>, cause: Cause, reason: &str) {
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
        let (initial, max) = (self.policy.probe_initial, self.policy.probe_max);
        let wait = wait.unwrap_or_else(|| retry::reconnect_wait(initial, max, inner.probes, fastrand::f64()));
        let probe_at = self.probe_at().unwrap_or(now).max(now + wait);
        self.probe_at.send_replace(Some(probe_at));
        if inner.opened_at.is_none() {
            inner.opened_at = Some(now);
            self.metrics.opened(cause);
            warn!(
                stage = self.stage,
                reason,
                "breaker open: no more messages are taken until this passes; nothing is counted against them"
            );
        }
    }

    fn close(&self) {
        let mut inner = self.inner();
        (inner.failures, inner.probes, inner.cause) = (0, 0, None);
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
mod tests {
    use super::*;
    use crate::{
        contract::time::Instant as Deadline,
        outcome::{Batch, Death, Failure},
        telemetry::metrics::{Metrics, labels},
    };

    fn failure(cause: Cause, retry_after: Option<u64>) -> Outcome {
        Outcome::TryAgain(Failure {
            cause,
            reason: "it failed".into(),
            retry_after: retry_after.map(Duration::from_secs),
            deadline: Deadline::floor(jiff::Timestamp::MAX),
        })
    }

    fn breaker() -> Breaker {
        let policy =
            Policy { failures: 3, probe_initial: Duration::from_secs(1), probe_max: Duration::from_secs(30) };
        let metrics = Metrics::new(&[]).unwrap().stage(labels::Stage::Link).breaker;
        Breaker::new("link", policy, metrics)
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_and_a_success_closes_it() {
        let breaker = breaker();
        let unavailable = failure(Cause::Unavailable, None);
        breaker.observe(&unavailable);
        breaker.observe(&unavailable);
        breaker.observe(&Outcome::Done(Batch::default()));
        breaker.observe(&unavailable);
        breaker.observe(&unavailable);
        assert_eq!(breaker.probe_at(), None);
        breaker.observe(&unavailable);
        assert!(breaker.probe_at().is_some());
        breaker.observe(&Outcome::Dead(Death::new(Class::Invalid, "says nothing of the API")));
        assert!(breaker.probe_at().is_some());
        breaker.observe(&Outcome::Dead(Death::new(Class::Rejected, "it answered")));
        assert_eq!(breaker.probe_at(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stage_without_an_outcome_is_a_failure() {
        let breaker = breaker();
        breaker.observe(&failure(Cause::Unavailable, None));
        breaker.overdue();
        assert_eq!(breaker.probe_at(), None);
        breaker.overdue();
        assert!(breaker.probe_at().is_some());
        breaker.observe(&Outcome::Done(Batch::default()));
        assert_eq!(breaker.probe_at(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_ledger_answers_says_nothing_of_the_api() {
        let breaker = breaker();
        breaker.observe(&failure(Cause::Unavailable, None));
        breaker.observe(&failure(Cause::Unavailable, None));
        breaker.observe(&Outcome::DoneBefore(Batch::default()));
        breaker.observe(&failure(Cause::Unavailable, None));
        assert!(breaker.probe_at().is_some(), "it was the third failure in a row");
        breaker.observe(&Outcome::DoneBefore(Batch::default()));
        assert!(breaker.probe_at().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_ledger_answers_ends_an_outage_of_the_ledger() {
        let breaker = breaker();
        breaker.observe(&failure(Cause::Ledger, None));
        assert!(breaker.probe_at().is_some());
        breaker.observe(&Outcome::DoneBefore(Batch::default()));
        assert_eq!(breaker.probe_at(), None);
        // Nor is one call that fails meanwhile an outage.
        breaker.observe(&failure(Cause::Ledger, None));
        breaker.observe(&failure(Cause::Unavailable, None));
        breaker.observe(&Outcome::DoneBefore(Batch::default()));
        assert_eq!(breaker.probe_at(), None);
        // What it was opened by the last time is no more, and not what also fails.
        breaker.observe(&failure(Cause::Token, None));
        breaker.observe(&failure(Cause::Ledger, None));
        breaker.observe(&Outcome::DoneBefore(Batch::default()));
        assert!(breaker.probe_at().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_refused_token_is_shown_as_one_and_until_it_works() {
        let breaker = breaker();
        breaker.observe(&failure(Cause::RateLimited, Some(7)));
        assert!(!breaker.metrics.is_token_refused());
        breaker.observe(&failure(Cause::Token, None));
        assert!(breaker.metrics.is_token_refused());
        breaker.observe(&Outcome::Done(Batch::default()));
        assert!(!breaker.metrics.is_token_refused());
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_after_opens_it_for_at_least_that_long() {
        let breaker = breaker();
        breaker.observe(&failure(Cause::RateLimited, Some(7)));
        breaker.observe(&failure(Cause::RateLimited, Some(3)));
        let wait = breaker.probe_at().unwrap() - Instant::now();
        assert_eq!(wait, Duration::from_secs(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_fails_waits_for_the_next_whatever_opened_it() {
        for (cause, retry_after) in
            [(Cause::RateLimited, Some(7)), (Cause::Token, None), (Cause::Ledger, None)]
        {
            let breaker = breaker();
            breaker.observe(&failure(cause, retry_after));
            let first = breaker.probe_at().unwrap();
            breaker.observe(&failure(Cause::Unavailable, None));
            assert_eq!(breaker.probe_at(), Some(first), "a straggler of before: {cause:?}");
            tokio::time::sleep_until(first).await;
            breaker.observe(&failure(Cause::Unavailable, None));
            let second = breaker.probe_at().unwrap();
            assert!(second > Instant::now(), "{cause:?}");
            tokio::time::sleep_until(second).await;
            breaker.overdue();
            assert!(breaker.probe_at().unwrap() > Instant::now(), "{cause:?}");
            breaker.observe(&Outcome::Done(Batch::default()));
            assert_eq!(breaker.probe_at(), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn probes_come_further_and_further_apart_up_to_the_longest() {
        let breaker = breaker();
        let mut waits = Vec::new();
        for _ in 0..12 {
            breaker.observe(&failure(Cause::Token, None));
            breaker.observe(&failure(Cause::Token, None));
            waits.push(breaker.probe_at().unwrap() - Instant::now());
            tokio::time::sleep_until(breaker.probe_at().unwrap()).await;
        }
        assert!(waits[0] <= Duration::from_millis(1500), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(30)));
        assert!(waits[11] >= Duration::from_secs(15), "{waits:?}");
    }
}
