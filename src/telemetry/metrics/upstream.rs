//! Calls of the two APIs, and the breakers that guard them.

use std::{sync::Arc, time::Duration};

use prometheus::{CounterVec, Error, HistogramVec, IntCounterVec, IntGaugeVec};
use tokio::time::Instant;

use super::{
    CALL_BUCKETS,
    families::Families,
    labels::{Called, Label, Upstream},
};
use crate::outcome::Cause;

/// The families with a label `upstream`.
#[derive(Debug)]
pub(super) struct UpstreamFamilies {
    calls: HistogramVec,
    waits: CounterVec,
    breaker_open: IntGaugeVec,
    breaker_opened: IntCounterVec,
    token_refused: IntGaugeVec,
}

impl UpstreamFamilies {
    pub(super) fn new(families: &Families<'_>) -> Result<Self, Error> {
        let upstream = || ("upstream", Upstream::texts());
        Ok(Self {
            calls: families.histograms(
                "upstream_call_duration_seconds",
                "Time of each call of an API, by result: ok; unavailable (no connection, no whole answer in time, 5xx); \
                 rate-limited (Retry-After, 429); token (401: ours is refused); rejected (another 4xx); malformed (an \
                 answer that can't be believed); abandoned (the session was over, or nobody waited any more).",
                CALL_BUCKETS,
                &[upstream(), ("result", Called::texts())],
            )?,
            waits: families.sums(
                "rate_limit_wait_seconds_total",
                "Seconds for which an API asked to be left alone, by Retry-After or 429. No call is made meanwhile.",
                &[upstream()],
            )?,
            breaker_open: families.gauges(
                "breaker_open",
                "Whether the breaker of this API is open (1): no events are taken for it but single probes. Also \
                 while the ledger is down.",
                &[upstream()],
            )?,
            breaker_opened: families.counters(
                "breaker_opened_total",
                "How often the breaker of this API opened, by the failure that did it.",
                &[upstream(), ("reason", Cause::texts())],
            )?,
            token_refused: families.gauges(
                "token_refused",
                "Whether this API refuses our token, or there is none to send (1), as far as the last answer tells.",
                &[upstream()],
            )?,
        })
    }
}

/// The metrics of the calls of one API.
#[derive(Clone, Debug)]
pub struct UpstreamMetrics {
    pub(super) upstream: Upstream,
    pub(super) families: Arc<UpstreamFamilies>,
}

impl UpstreamMetrics {
    /// A call begins now.
    #[must_use]
    pub fn begin(&self) -> CallTimer {
        CallTimer { metrics: self.clone(), since: Instant::now(), result: Called::Abandoned }
    }

    /// The API asked to be left alone for `wait` longer than before.
    pub fn rate_limited(&self, wait: Duration) {
        self.families.waits.with_label_values(&[self.upstream.as_str()]).inc_by(wait.as_secs_f64());
    }
}

/// A call that is being made. Dropping it is an end, too: what is cancelled is measured as well.
#[derive(Debug)]
pub struct CallTimer {
    metrics: UpstreamMetrics,
    since: Instant,
    result: Called,
}

impl CallTimer {
    /// What came of it so far.
    pub const fn set(&mut self, result: Called) {
        self.result = result;
    }
}

impl Drop for CallTimer {
    fn drop(&mut self) {
        let labels = [self.metrics.upstream.as_str(), self.result.as_str()];
        let calls = self.metrics.families.calls.with_label_values(&labels);
        calls.observe(self.since.elapsed().as_secs_f64());
    }
}

/// The metrics of the breaker of one API.
#[derive(Clone, Debug)]
pub struct BreakerMetrics {
    pub(super) upstream: Upstream,
    pub(super) families: Arc<UpstreamFamilies>,
}

impl BreakerMetrics {
    /// The breaker has opened because of `cause`.
    pub fn opened(&self, cause: Cause) {
        let upstream = self.upstream.as_str();
        self.families.breaker_open.with_label_values(&[upstream]).set(1);
        self.families.breaker_opened.with_label_values(&[upstream, cause.as_str()]).inc();
    }

    /// The breaker has closed.
    pub fn closed(&self) {
        self.families.breaker_open.with_label_values(&[self.upstream.as_str()]).set(0);
    }

    /// Whether it is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.families.breaker_open.with_label_values(&[self.upstream.as_str()]).get() != 0
    }

    /// Whether our token is refused, as far as is known.
    #[must_use]
    pub fn is_token_refused(&self) -> bool {
        self.families.token_refused.with_label_values(&[self.upstream.as_str()]).get() != 0
    }

    /// Whether our token is refused.
    pub fn set_token_refused(&self, refused: bool) {
        self.families.token_refused.with_label_values(&[self.upstream.as_str()]).set(refused.into());
    }
}
