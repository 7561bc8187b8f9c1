//! Metrics of the APIs and of their breakers.

use std::time::Duration;

use prometheus::{CounterVec, Error, HistogramVec, IntCounterVec, IntGaugeVec};
use tokio::time::Instant;

use super::{
    CALL_BUCKETS,
    families::{Families, Recorder},
    labels::{Called, Label},
};
use crate::{contract::stage::StageDef, outcome::Cause, state::WorkerState};

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
                "Time of each API call, by result: ok; unavailable (no connection, no complete response in time, 407, 408, \
                 421, 423, 425, 5xx, or a 4xx of a proxy); rate-limited (Retry-After or 429); token (401: our token is refused); \
                 rejected (another 4xx); malformed (unusable response); abandoned (amqp.delivery_timeout, shutdown, or the session \
                 had ended).",
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
                "1 if the API refused our token at the last call.",
                &[upstream()],
            )?,
        })
    }

    /// Sets the gauges from the state.
    pub(super) fn show(&self, state: &WorkerState, stages: &[&StageDef]) {
        for stage in stages {
            let (breaker, labels) = (state.stage(stage.name).breaker, [stage.upstream.label]);
            self.breaker_open.with_label_values(&labels).set(breaker.is_open().into());
            self.token_refused.with_label_values(&labels).set(breaker.is_token_refused().into());
        }
    }
}

/// The metrics of the calls of one API.
#[derive(Clone, Debug)]
pub struct UpstreamMetrics {
    pub(super) upstream: &'static str,
    pub(super) families: Recorder<UpstreamFamilies>,
}

impl UpstreamMetrics {
    /// Starts the timer of a call.
    #[must_use]
    pub fn begin(&self) -> CallTimer {
        CallTimer { metrics: self.clone(), since: Instant::now(), result: Called::Abandoned }
    }

    /// Adds `wait` to the rate-limit delay of the API.
    pub fn rate_limited(&self, wait: Duration) {
        self.families
            .record(|families| families.waits.with_label_values(&[self.upstream]).inc_by(wait.as_secs_f64()));
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
        let took = self.since.elapsed().as_secs_f64();
        self.metrics.families.record(|families| families.calls.with_label_values(&labels).observe(took));
    }
}

/// The metrics of the breaker of one API.
#[derive(Clone, Debug)]
pub struct BreakerMetrics {
    pub(super) upstream: &'static str,
    pub(super) families: Recorder<UpstreamFamilies>,
}

impl BreakerMetrics {
    /// Counts an opening of the breaker because of `cause`.
    pub fn opened(&self, cause: Cause) {
        let labels = [self.upstream, cause.as_str()];
        self.families.record(|families| families.breaker_opened.with_label_values(&labels).inc());
    }
}
