//! Metrics of a stage.

mod families;

use std::time::Duration;

use prometheus::IntCounterVec;
use strum::VariantArray as _;
use tokio::time::Instant;

pub(super) use families::{StageFamilies, names};

use super::{
    connection::ConnectionMetrics,
    families::Recorder,
    labels::{Label, QueueKind},
    upstream::BreakerMetrics,
};
use crate::{
    contract::{outgoing::Route, stage::StageDef},
    outcome::{Cause, Class, SettledKind},
};

/// The metrics of one stage.
#[derive(Clone, Debug)]
pub struct StageMetrics {
    pub(super) stage: &'static StageDef,
    pub(super) families: Recorder<StageFamilies>,
    /// The stage's connection to the broker.
    pub connection: ConnectionMetrics,
    /// The breaker of the API that the stage calls.
    pub breaker: BreakerMetrics,
}

impl StageMetrics {
    /// Starts the timer of a delivery.
    #[must_use]
    pub fn begin(&self) -> WorkTimer {
        WorkTimer { metrics: self.clone(), since: Instant::now(), ended: SettledKind::Requeued }
    }

    /// Sets the maximum number of deliveries in progress.
    pub fn set_permits(&self, permits: usize) {
        let permits = i64::try_from(permits).unwrap_or(i64::MAX);
        self.record(|families, stage| {
            families.deliveries.permits.with_label_values(&[stage]).set(permits);
        });
    }

    /// Counts a stalled consumer.
    pub fn silent(&self) {
        self.record(|families, stage| families.consumers.silent.with_label_values(&[stage]).inc());
    }

    /// Sets the numbers of messages in the stage's queues, in the order of [`QueueKind`]. Removes an unknown number.
    pub fn set_queued(&self, messages: [Option<u64>; 3]) {
        self.record(|families, stage| {
            for (queue, messages) in QueueKind::VARIANTS.iter().zip(messages) {
                let labels = [stage, queue.as_str()];
                match messages {
                    Some(messages) => {
                        let messages = i64::try_from(messages).unwrap_or(i64::MAX);
                        families.consumers.queued.with_label_values(&labels).set(messages);
                    }
                    // An error means that the series is absent already.
                    None => _ = families.consumers.queued.remove_label_values(&labels),
                }
            }
        });
    }

    /// Removes the queue lengths, because they are unknown while disconnected.
    pub fn forget_queued(&self) {
        self.set_queued([None; 3]);
    }

    /// Counts a delivery that is requeued because of `amqp.delivery_timeout`.
    pub fn overdue(&self) {
        self.record(|families, stage| families.deliveries.overdue.with_label_values(&[stage]).inc());
    }

    /// Counts a retry because of `cause`.
    pub fn retried(&self, cause: Cause) {
        self.count(|families| &families.delays.retries, cause.as_str());
    }

    /// Counts a copy in the delay queue of `delay`.
    pub fn held(&self, delay: Duration) {
        self.count(|families| &families.delays.holds, &rung(delay));
    }

    /// Counts a message that returned from the delay queue of `delay`.
    pub fn returned(&self, delay: Duration) {
        let rung = rung(delay);
        self.record(|families, stage| {
            // The delay may come from another configuration or from a publisher. A message must not create a label
            // value.
            let known = families.delays.rungs.contains(&rung);
            let label: &str = if known { &rung } else { OTHER_RUNG };
            families.delays.returns.with_label_values(&[stage, label]).inc();
        });
    }

    /// Counts a dead letter of `class`.
    pub fn dead(&self, class: Class) {
        self.count(|families| &families.deliveries.dead_letters, class.as_str());
    }

    /// Counts a confirmed message that took `route`.
    pub fn published(&self, route: Route) {
        let labels = [route.role, route.channel];
        self.record(|families, _| families.links.with_label_values(&labels).inc());
    }

    /// Records that the people have what the stage makes, which `took` this long since the event.
    pub fn delivered(&self, took: Duration) {
        self.record(|families, stage| {
            if let Some((_, latency)) = families.latencies.iter().find(|(name, _)| *name == stage) {
                latency.observe(took.as_secs_f64());
            }
        });
    }

    fn record(&self, record: impl FnOnce(&StageFamilies, &str)) {
        self.families.record(|families| record(families, self.stage.name));
    }

    fn count(&self, family: impl FnOnce(&StageFamilies) -> &IntCounterVec, value: &str) {
        self.record(|families, stage| family(families).with_label_values(&[stage, value]).inc());
    }
}

/// The label `rung` of a delay queue that is not configured here.
const OTHER_RUNG: &str = "other";

/// The label `rung` of a delay queue: milliseconds, as in its name.
pub(super) fn rung(delay: Duration) -> String {
    delay.as_millis().to_string()
}

/// Timer of a delivery in progress. Dropping it ends the delivery, so cancelled work is measured, too.
#[derive(Debug)]
pub struct WorkTimer {
    metrics: StageMetrics,
    since: Instant,
    ended: SettledKind,
}

impl WorkTimer {
    /// Ends the timer of a settled delivery.
    pub fn ended(mut self, how: SettledKind) {
        self.ended = how;
    }
}

impl Drop for WorkTimer {
    fn drop(&mut self) {
        let (ended, took) = (self.ended.as_str(), self.since.elapsed().as_secs_f64());
        self.metrics.count(|families| &families.deliveries.events, ended);
        self.metrics.record(|families, stage| {
            families.deliveries.durations.with_label_values(&[stage, ended]).observe(took);
        });
    }
}
