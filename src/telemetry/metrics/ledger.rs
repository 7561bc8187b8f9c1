//! What the ledger is asked and how it answers.

use std::{sync::Arc, time::Duration};

use prometheus::{Error, Histogram, IntCounter, IntCounterVec, IntGauge};

use super::{
    LOCAL_BUCKETS,
    families::Families,
    labels::{Claimed, Label, Stage},
};

/// The families about the ledger.
#[derive(Debug)]
pub(super) struct LedgerFamilies {
    claims: IntCounterVec,
    writes: Histogram,
    failures: IntCounter,
    entries: IntGauge,
}

impl LedgerFamilies {
    pub(super) fn new(families: &Families<'_>) -> Result<Self, Error> {
        Ok(Self {
            claims: families.counters(
                "ledger_claims_total",
                "What the ledger said before an outside effect: miss (not done yet); hit (done before: its result is \
                 used again); busy (another worker is at it); conflict (the id came before, with another body); failed \
                 (the ledger is down).",
                &[("stage", Stage::texts()), ("result", Claimed::texts())],
            )?,
            writes: families.histogram(
                "ledger_write_duration_seconds",
                "Time until a note or a result is kept for sure, the wait for a shared commit included.",
                LOCAL_BUCKETS,
            )?,
            failures: families.counter(
                "ledger_write_failures_total",
                "Notes and results that the ledger did not take.",
            )?,
            entries: families.gauge(
                "ledger_entries",
                "Entries in the ledger, expired ones until they are removed; 0 with Redis, which can't tell.",
            )?,
        })
    }
}

/// The ledger's metrics, as one stage uses it.
#[derive(Clone, Debug)]
pub struct LedgerMetrics {
    pub(super) stage: Stage,
    pub(super) families: Arc<LedgerFamilies>,
}

impl LedgerMetrics {
    /// The ledger answered a claim.
    pub fn claimed(&self, result: Claimed) {
        self.families.claims.with_label_values(&[self.stage.as_str(), result.as_str()]).inc();
    }

    /// A write took this long.
    pub fn wrote(&self, took: Duration) {
        self.families.writes.observe(took.as_secs_f64());
    }

    /// A write failed.
    pub fn failed(&self) {
        self.families.failures.inc();
    }

    /// The ledger has this many entries.
    pub fn set_entries(&self, entries: u64) {
        self.families.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
    }
}
