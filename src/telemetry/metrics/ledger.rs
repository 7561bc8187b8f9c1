//! Metrics of the ledger.

use std::time::Duration;

use prometheus::{Error, Histogram, IntCounter, IntCounterVec, IntGauge};

use super::{
    LOCAL_BUCKETS,
    families::{Families, Recorder},
    labels::{Claimed, IngressRoute, Label},
    stage::names,
};
use crate::contract::stage::StageDef;

/// Routes of the ingress whose requests use the ledger.
const LEDGER_ROUTES: [IngressRoute; 2] = [IngressRoute::Receipts, IngressRoute::Sessions];

/// The metric families of the ledger.
#[derive(Debug)]
pub(super) struct LedgerFamilies {
    claims: IntCounterVec,
    writes: Histogram,
    failures: IntCounter,
    ingress_failures: IntCounterVec,
    entries: IntGauge,
}

impl LedgerFamilies {
    pub(super) fn new(families: &Families<'_>, stages: &[&StageDef]) -> Result<Self, Error> {
        Ok(Self {
            claims: families.counters(
                "ledger_claims_total",
                "Ledger results before an outside effect: miss (not processed before); hit (processed before: the \
                 recorded result is used again); busy (another worker is processing it); conflict (the id was used \
                 before with different content); failed (ledger unavailable).",
                &[names(stages), ("result", Claimed::texts())],
            )?,
            writes: families.histogram(
                "ledger_write_duration_seconds",
                "Ledger write latency, including group commit.",
                LOCAL_BUCKETS,
            )?,
            failures: families.counter(
                "ledger_write_failures_total",
                "Failed ledger writes (notes and results), including repeated writes.",
            )?,
            ingress_failures: families.counters(
                "ingress_ledger_failures_total",
                "Ledger calls of the ingress that failed or got no response in time, by the request's route. The request gets 503, or is accepted \
                 without deduplication (ledger.on_failure = continue).",
                &[("route", LEDGER_ROUTES.iter().map(|route| route.as_str()).collect())],
            )?,
            entries: families.gauge(
                "ledger_entries",
                "Entries in the file or memory ledger, including expired ones until they are removed (0 for Redis, which does not report it).",
            )?,
        })
    }
}

impl LedgerFamilies {
    pub(super) fn set_entries(&self, entries: u64) {
        self.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
    }

    pub(super) fn failed_at_ingress(&self, route: IngressRoute) {
        self.ingress_failures.with_label_values(&[route.as_str()]).inc();
    }
}

/// The ledger's metrics for one stage.
#[derive(Clone, Debug)]
pub struct LedgerMetrics {
    pub(super) stage: &'static StageDef,
    pub(super) families: Recorder<LedgerFamilies>,
}

impl LedgerMetrics {
    /// Counts the ledger's result of a claim.
    pub fn claimed(&self, result: Claimed) {
        let labels = [self.stage.name, result.as_str()];
        self.families.record(|families| families.claims.with_label_values(&labels).inc());
    }

    /// Records the duration of a write.
    pub fn wrote(&self, took: Duration) {
        self.families.record(|families| families.writes.observe(took.as_secs_f64()));
    }

    /// Counts a failed write.
    pub fn failed(&self) {
        self.families.record(|families| families.failures.inc());
    }
}
