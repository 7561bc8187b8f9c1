//! Metrics of the connections to the broker and of publishing.

use std::time::Duration;

use prometheus::{Error, Histogram, IntCounterVec, IntGauge, IntGaugeVec};

use super::{
    LOCAL_BUCKETS,
    families::{Families, Recorder},
    labels::{Label, PUBLISH, Published},
};
use crate::{contract::stage::StageDef, state::WorkerState};

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
    pub(super) fn new(families: &Families<'_>, stages: &[&StageDef]) -> Result<Self, Error> {
        let connections = || stages.iter().map(|stage| stage.name).chain([PUBLISH]);
        let connection = || ("connection", connections().collect());
        Ok(Self {
            connected: families.gauges(
                "connected",
                "1 if this broker connection is established; 0 for a stage that does not run in this worker.",
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
                "Messages published (links, copies for delay queues, dead letters), by the broker's reply: confirmed; \
                 returned (no queue is bound to the routing key); nacked (refused by the broker; usually a queue is full); unknown (no reply \
                 before the connection failed, or within four times amqp.timeout). Unconfirmed messages are published again, or their \
                 deliveries are requeued.",
                &[("result", Published::texts())],
            )?,
            confirms: families.histogram(
                "confirm_duration_seconds",
                "Time from publishing a message to the broker's reply (ack, nack or return).",
                LOCAL_BUCKETS,
            )?,
            blocked: families.gauge(
                "publishing_blocked",
                "1 if the broker blocks publishing because it is short of memory or disk.",
            )?,
        })
    }

    /// Sets the gauges from the state.
    pub(super) fn show(&self, state: &WorkerState, stages: &[&StageDef]) {
        let publishing = state.publishing();
        self.connected.with_label_values(&[PUBLISH]).set(publishing.connection.is_up().into());
        for stage in stages {
            let up = state.stage(stage.name).connection.is_up();
            self.connected.with_label_values(&[stage.name]).set(up.into());
        }
        self.blocked.set(publishing.is_blocked().into());
    }
}

/// The metrics of one connection.
#[derive(Clone, Debug)]
pub struct ConnectionMetrics {
    pub(super) connection: &'static str,
    pub(super) families: Recorder<BrokerFamilies>,
}

impl ConnectionMetrics {
    /// Counts an established connection.
    pub fn established(&self) {
        self.families.record(|families| families.connects.with_label_values(&[self.connection]).inc());
    }

    /// Counts a failed connection attempt.
    pub fn failed(&self) {
        self.families.record(|families| families.failures.with_label_values(&[self.connection]).inc());
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
    /// Counts the broker's reply to a message, `took` after publishing; [`Published::Unknown`] if there was none.
    pub fn published(&self, result: Published, took: Duration) {
        self.families.record(|families| {
            families.publishes.with_label_values(&[result.as_str()]).inc();
            if result != Published::Unknown {
                families.confirms.observe(took.as_secs_f64());
            }
        });
    }
}
