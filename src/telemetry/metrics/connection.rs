//! Metrics of the connections to the broker and of publishing.

use std::time::Duration;

use prometheus::{Error, Histogram, IntCounterVec, IntGauge, IntGaugeVec};
use strum::VariantArray as _;

use super::{
    LOCAL_BUCKETS,
    families::{Families, Recorder},
    labels::{Connection, Label, Published, StageName},
};
use crate::state::WorkerState;

/// The metric families of the broker.
#[derive(Debug)]
pub(super) struct BrokerFamilies {
    connected: IntGaugeVec,
    connects: IntCounterVec,
    failures: IntCounterVec,
    publishes: IntCounterVec,
    confirms: Histogram,
    blocked: IntGauge,
}

impl BrokerFamilies {
    pub(super) fn new(families: &Families<'_>) -> Result<Self, Error> {
        let connection = || ("connection", Connection::texts());
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
        })
    }

    /// Sets the gauges from the state.
    pub(super) fn show(&self, state: &WorkerState) {
        let publishing = state.publishing();
        let mut connections = vec![(Connection::Publish, publishing.connection.is_up())];
        connections.extend(
            StageName::VARIANTS
                .iter()
                .map(|stage| (Connection::of(*stage), state.stage(stage.as_str()).connection.is_up())),
        );
        for (connection, up) in connections {
            self.connected.with_label_values(&[connection.as_str()]).set(up.into());
        }
        self.blocked.set(publishing.is_blocked().into());
    }
}

/// The metrics of one connection.
#[derive(Clone, Debug)]
pub struct ConnectionMetrics {
    pub(super) connection: Connection,
    pub(super) families: Recorder<BrokerFamilies>,
}

impl ConnectionMetrics {
    /// Counts an established connection.
    pub fn established(&self) {
        let labels = [self.connection.as_str()];
        self.families.record(|families| families.connects.with_label_values(&labels).inc());
    }

    /// Counts a failed connection attempt.
    pub fn failed(&self) {
        let labels = [self.connection.as_str()];
        self.families.record(|families| families.failures.with_label_values(&labels).inc());
    }
}

/// The metrics of publishing.
#[derive(Clone, Debug)]
pub struct PublishMetrics {
    /// The publisher's connection.
    pub connection: ConnectionMetrics,
    pub(super) families: Recorder<BrokerFamilies>,
}

impl PublishMetrics {
    /// Counts the broker's answer to a message, `took` after publishing; [`Published::Unknown`] if there was none.
    pub fn published(&self, result: Published, took: Duration) {
        self.families.record(|families| {
            families.publishes.with_label_values(&[result.as_str()]).inc();
            if result != Published::Unknown {
                families.confirms.observe(took.as_secs_f64());
            }
        });
    }
}
