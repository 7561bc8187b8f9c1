//! Metrics of the connections to the broker and of publishing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus::{Error, Histogram, IntCounterVec, IntGauge, IntGaugeVec};

use super::{
    LOCAL_BUCKETS,
    families::Families,
    labels::{Label, PUBLISH, Published},
};
use crate::contract::stage::StageDef;

/// The metric families of the broker.
#[derive(Debug)]
pub(super) struct BrokerFamilies {
    connected: IntGaugeVec,
    connects: IntCounterVec,
    failures: IntCounterVec,
    publishes: IntCounterVec,
    confirms: Histogram,
    blocked: IntGauge,
    /// Reason of each missing connection. Not a metric, because a changing text must not become a label.
    reasons: Mutex<BTreeMap<&'static str, String>>,
}

impl BrokerFamilies {
    pub(super) fn new(families: &Families<'_>, stages: &[&StageDef]) -> Result<Self, Error> {
        let connections = || stages.iter().map(|stage| stage.name).chain([PUBLISH]);
        let connection = || ("connection", connections().collect());
        Ok(Self {
            connected: families.gauges(
                "connected",
                "1 if this broker connection is established.",
                &[connection()],
            )?,
            connects: families.counters(
                "connects_total",
                "Broker connections established, including reconnects.",
                &[connection()],
            )?,
            failures: families.counters(
                "connect_failures_total",
                "Failed broker connection attempts, including topology failures.",
                &[connection()],
            )?,
            publishes: families.counters(
                "publishes_total",
                "Messages published (links, copies for delay queues, dead letters), by the broker's answer: confirmed; \
                 returned (no queue is bound to the routing key); nacked (refused: is a queue full?); unknown (no answer \
                 before the connection failed, or within four times amqp.timeout). Unconfirmed messages are published again, or their \
                 deliveries are requeued.",
                &[("result", Published::texts())],
            )?,
            confirms: families.histogram(
                "confirm_duration_seconds",
                "Time from publishing a message to the broker's answer.",
                LOCAL_BUCKETS,
            )?,
            blocked: families.gauge(
                "publishing_blocked",
                "1 if the broker blocks publishing because it is short of memory or disk.",
            )?,
            reasons: Mutex::default(),
        })
    }
}

/// The metrics of one connection.
#[derive(Clone, Debug)]
pub struct ConnectionMetrics {
    pub(super) connection: &'static str,
    pub(super) families: Arc<BrokerFamilies>,
}

impl ConnectionMetrics {
    /// Records that the connection is established, until the returned value is dropped.
    #[must_use]
    pub fn up(&self) -> Up {
        self.reasons().remove(self.connection);
        self.families.connects.with_label_values(&[self.connection]).inc();
        Up::new(self.families.connected.with_label_values(&[self.connection]))
    }

    /// True if the connection is established.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.families.connected.with_label_values(&[self.connection]).get() != 0
    }

    /// Reason of a missing connection, if known.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.reasons().get(self.connection).cloned()
    }

    /// Records the reason of a missing connection.
    pub fn down(&self, reason: String) {
        self.reasons().insert(self.connection, reason);
    }

    fn reasons(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.families.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a failed connection attempt.
    pub fn failed(&self) {
        self.families.failures.with_label_values(&[self.connection]).inc();
    }
}

/// The metrics of publishing.
#[derive(Clone, Debug)]
pub struct PublishMetrics {
    /// The publisher's connection.
    pub connection: ConnectionMetrics,
    pub(super) families: Arc<BrokerFamilies>,
}

impl PublishMetrics {
    /// Counts the broker's answer to a message, `took` after publishing; [`Published::Unknown`] if there was none.
    pub fn published(&self, result: Published, took: Duration) {
        self.families.publishes.with_label_values(&[result.as_str()]).inc();
        if result != Published::Unknown {
            self.families.confirms.observe(took.as_secs_f64());
        }
    }

    /// True if the broker blocks publishing.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.families.blocked.get() != 0
    }

    pub fn set_blocked(&self, blocked: bool) {
        self.families.blocked.set(blocked.into());
    }
}

/// Adds one to a gauge until it is dropped.
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
