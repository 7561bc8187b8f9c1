//! Connections to the broker, and what is published over them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus::{Error, Histogram, IntCounterVec, IntGauge, IntGaugeVec};

use super::{
    LOCAL_BUCKETS,
    families::Families,
    labels::{Connection, Label, Published},
};

/// The families about the broker.
#[derive(Debug)]
pub(super) struct BrokerFamilies {
    connected: IntGaugeVec,
    connects: IntCounterVec,
    failures: IntCounterVec,
    publishes: IntCounterVec,
    confirms: Histogram,
    blocked: IntGauge,
    /// Why a connection is missing. No metric: a text that changes makes no series.
    reasons: Mutex<BTreeMap<&'static str, String>>,
}

impl BrokerFamilies {
    pub(super) fn new(families: &Families<'_>) -> Result<Self, Error> {
        let connection = || ("connection", Connection::texts());
        Ok(Self {
            connected: families.gauges(
                "connected",
                "Whether this connection to the broker stands (1).",
                &[connection()],
            )?,
            connects: families.counters(
                "connects_total",
                "Connections to the broker that were made and could be used; all but each first are reconnects.",
                &[connection()],
            )?,
            failures: families.counters(
                "connect_failures_total",
                "Tries to connect to the broker that failed, or connections on which its queues could not be found or declared.",
                &[connection()],
            )?,
            publishes: families.counters(
                "publishes_total",
                "Messages published (links, copies for hold queues, dead letters), by what the broker said: confirmed; \
                 returned (no queue is bound for it); nacked (refused: is a queue full?); unknown (no answer before the \
                 connection broke or amqp.timeout). What was not confirmed is published again or given back.",
                &[("result", Published::texts())],
            )?,
            confirms: families.histogram(
                "confirm_duration_seconds",
                "Time from publishing a message to the broker's answer.",
                LOCAL_BUCKETS,
            )?,
            blocked: families.gauge(
                "publishing_blocked",
                "Whether the broker blocks publishing (1), because it is short of memory or disk.",
            )?,
            reasons: Mutex::default(),
        })
    }
}

/// The metrics of one connection.
#[derive(Clone, Debug)]
pub struct ConnectionMetrics {
    pub(super) connection: Connection,
    pub(super) families: Arc<BrokerFamilies>,
}

impl ConnectionMetrics {
    /// The connection stands, until the value is dropped.
    #[must_use]
    pub fn up(&self) -> Up {
        self.reasons().remove(self.connection.as_str());
        self.families.connects.with_label_values(&[self.connection.as_str()]).inc();
        Up::new(self.families.connected.with_label_values(&[self.connection.as_str()]))
    }

    /// Whether it stands.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.families.connected.with_label_values(&[self.connection.as_str()]).get() != 0
    }

    /// Why it does not stand, if that is known.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.reasons().get(self.connection.as_str()).cloned()
    }

    /// It does not stand, for this reason.
    pub fn down(&self, reason: String) {
        self.reasons().insert(self.connection.as_str(), reason);
    }

    fn reasons(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.families.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A try to connect failed.
    pub fn failed(&self) {
        self.families.failures.with_label_values(&[self.connection.as_str()]).inc();
    }
}

/// The metrics of publishing.
#[derive(Clone, Debug)]
pub struct PublishMetrics {
    /// Its connection.
    pub connection: ConnectionMetrics,
    pub(super) families: Arc<BrokerFamilies>,
}

impl PublishMetrics {
    /// The broker said this of a message, `took` after it was published; or said nothing.
    pub fn published(&self, result: Published, took: Duration) {
        self.families.publishes.with_label_values(&[result.as_str()]).inc();
        if result != Published::Unknown {
            self.families.confirms.observe(took.as_secs_f64());
        }
    }

    /// Whether the broker blocks publishing.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.families.blocked.get() != 0
    }

    /// Whether the broker blocks publishing.
    pub fn set_blocked(&self, blocked: bool) {
        self.families.blocked.set(blocked.into());
    }
}

/// Counts in a gauge as long as it lives.
#[derive(Debug)]
pub struct Up(IntGauge);

impl Up {
    pub(super) fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.0.dec();
    }
}
