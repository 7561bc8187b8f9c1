//! Pauses consuming while an API is down, refuses our token or sets a rate limit (`Retry-After`), and while the ledger
//! is unavailable. Meanwhile single messages probe the API. No attempt counts while the breaker is open.
//!
//! A failure is the event's own if more other events succeeded than failed since the event last failed. Such a failure
//! counts against the event and is no sign of an outage. After eight failures in a row to which only the first half of
//! this applies, the next ones count too. No other failure counts, with the breaker open or closed, because it could
//! be the start of an outage. So a single event without any others is retried until its session has ended.
//!
//! - `signal`: the meaning of an outcome for the API
//! - `history`: failures that are remembered; `transitions`: opening and closing
//! - `verdict`: the consequence of a failure for its event

mod history;
mod signal;
mod transitions;
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
use tracing::info;

pub(crate) use verdict::{BreakerVerdict, Postponed};

use history::BreakerHistory;
use signal::Signal;

use crate::{
    clock::Clock,
    outcome::{Cause, Failure, Outcome},
    random::Random,
    state::BreakerState,
    telemetry::metrics::BreakerMetrics,
    values::{self, Bounded, Period},
};

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
                if matches!(outcome, Outcome::Done(batch) if !batch.is_rejection) {
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

    fn inner(&self) -> MutexGuard<'_, BreakerHistory> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
