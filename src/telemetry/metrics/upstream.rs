//! Metrics of the two APIs and of their breakers.

use std::{sync::Arc, time::Duration};

use prometheus::{CounterVec, Error, HistogramVec, IntCounterVec, IntGaugeVec};
use tokio::time::Instant;

use super::{
    CALL_BUCKETS,
    families::Families,
    labels::{Called, Label},
};
use crate::{contract::stage::StageDef, outcome::Cause};

/// The metric families with a label `upstream`.
#[derive(Debug)]
pub(super) struct UpstreamFamilies {
    calls: HistogramVec,
    waits: CounterVec,
    breaker_open: IntGaugeVec,
    breaker_opened: IntCounterVec,
    token_refused: IntGaugeVec,
}

impl UpstreamFamilies {
    pub(super) fn new(families: &Families<'_>, stages: &[&StageDef]) -> Result<Self, Error> {
        let upstream = || ("upstream", stages.iter().map(|stage| stage.upstream.label).collect());
        Ok(Self {
            calls: families.histograms(
                "upstream_call_duration_seconds",
                "Time of each API call, by result: ok; unavailable (no connection, no complete answer in time, 5xx); \
                 rate-limited (Retry-After or 429); token (401: our token is rejected); rejected (another 4xx); \
                 malformed (unusable response); abandoned (caller gave up, or the session was over).",
                CALL_BUCKETS,
                &[upstream(), ("result", Called::texts())],
            )?,
            waits: families.sums(
                "rate_limit_wait_seconds_total",
                "Total rate-limit delay imposed by the API (Retry-After or 429). No call is made during that time.",
                &[upstream()],
            )?,
            breaker_open: families.gauges(
                "breaker_open",
                "1 if the breaker of this API is open: consuming is paused except for single probes. Also while the \
                 ledger is unavailable.",
                &[upstream()],
            )?,
            breaker_opened: families.counters(
                "breaker_opened_total",
                "Times that the breaker of this API opened, by the failure that opened it.",
                &[upstream(), ("reason", Cause::texts())],
            )?,
            token_refused: families.gauges(
                "token_refused",
                "1 if the API rejected our token, or no token is available, as of the last call.",
                &[upstream()],
            )?,
        })
    }
}

/// The metrics of the calls of one API.
#[derive(Clone, Debug)]
pub struct UpstreamMetrics {
    pub(super) upstream: &'static str,
    pub(super) families: Arc<UpstreamFamilies>,
}

impl UpstreamMetrics {
    /// Starts the timer of a call.
    #[must_use]
    pub fn begin(&self) -> CallTimer {
        CallTimer { metrics: self.clone(), since: Instant::now(), result: Called::Abandoned }
    }

    /// Adds `wait` to the rate-limit delay of the API.
    pub fn rate_limited(&self, wait: Duration) {
        self.families.waits.with_label_values(&[self.upstream]).inc_by(wait.as_secs_f64());
    }
}

/// Timer of a call in progress. Dropping it ends the call, so cancelled calls are measured, too.
#[derive(Debug)]
pub struct CallTimer {
    metrics: UpstreamMetrics,
    since: Instant,
    result: Called,
}

impl CallTimer {
    /// Sets the result so far.
    pub const fn set(&mut self, result: Called) {
        self.result = result;
    }
}

impl Drop for CallTimer {
    fn drop(&mut self) {
        let labels = [self.metrics.upstream, self.result.as_str()];
        let calls = self.metrics.families.calls.with_label_values(&labels);
        calls.observe(self.since.elapsed().as_secs_f64());
    }
}

/// The metrics of the breaker of one API.
#[derive(Clone, Debug)]
pub struct BreakerMetrics {
    pub(super) upstream: &'static str,
    pub(super) families: Arc<UpstreamFamilies>,
}

impl BreakerMetrics {
    /// Records that the breaker opened because of `cause`.
    pub fn opened(&self, cause: Cause) {
        let upstream = self.upstream;
        self.families.breaker_open.with_label_values(&[upstream]).set(1);
        self.families.breaker_opened.with_label_values(&[upstream, cause.as_str()]).inc();
    }

    /// Records that the breaker closed.
    pub fn closed(&self) {
        self.families.breaker_open.with_label_values(&[self.upstream]).set(0);
    }

    /// True if the breaker is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.families.breaker_open.with_label_values(&[self.upstream]).get() != 0
    }

    /// True if our token was refused at the last call.
    #[must_use]
    pub fn is_token_refused(&self) -> bool {
        self.families.token_refused.with_label_values(&[self.upstream]).get() != 0
    }

    pub fn set_token_refused(&self, refused: bool) {
        self.families.token_refused.with_label_values(&[self.upstream]).set(refused.into());
    }
}
