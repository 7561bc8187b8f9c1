//! The metric families of the stages.

use prometheus::{Error, Histogram, HistogramVec, IntCounterVec, IntGaugeVec};

use super::OTHER_RUNG;
use crate::{
    contract::stage::StageDef,
    outcome::{Cause, Class, SettledKind},
    state::WorkerState,
    telemetry::metrics::{
        EVENT_BUCKETS,
        families::{Dimension, Families},
        labels::{Label, QueueKind},
    },
};

/// The metric families of the stages. Most have a label `stage`.
#[derive(Debug)]
pub(in crate::telemetry::metrics) struct StageFamilies {
    pub(super) deliveries: DeliveryFamilies,
    pub(super) consumers: ConsumerFamilies,
    pub(super) delays: DelayFamilies,
    pub(super) links: IntCounterVec,
    /// The histogram of each stage, by its name.
    pub(super) latencies: Vec<(&'static str, Histogram)>,
}

impl StageFamilies {
    pub(in crate::telemetry::metrics) fn new(
        families: &Families<'_>,
        stages: &[&'static StageDef],
        rungs: &[String],
    ) -> Result<Self, Error> {
        let latency = |stage: &&'static StageDef| {
            Ok((stage.name, families.histogram(stage.latency.name, stage.latency.help, EVENT_BUCKETS)?))
        };
        Ok(Self {
            deliveries: DeliveryFamilies::new(families, stages)?,
            consumers: ConsumerFamilies::new(families, stages)?,
            delays: DelayFamilies::new(families, stages, rungs)?,
            links: links(families, stages)?,
            latencies: stages.iter().map(latency).collect::<Result<_, Error>>()?,
        })
    }

    /// Sets the gauges from the state.
    pub(in crate::telemetry::metrics) fn show(&self, state: &WorkerState, stages: &[&StageDef]) {
        for stage in stages {
            let (state, labels) = (state.stage(stage.name), [stage.name]);
            let set = |family: &IntGaugeVec, value: i64| family.with_label_values(&labels).set(value);
            let oldest = state.oldest_work().unwrap_or_default().as_secs();
            set(&self.deliveries.oldest, i64::try_from(oldest).unwrap_or(i64::MAX));
            set(&self.deliveries.in_flight, i64::try_from(state.in_progress()).unwrap_or(i64::MAX));
            set(&self.consumers.consuming, state.is_consuming().into());
        }
    }
}

/// Families about deliveries, from their receipt to their settlement.
#[derive(Debug)]
pub(super) struct DeliveryFamilies {
    pub(super) events: IntCounterVec,
    pub(super) durations: HistogramVec,
    pub(super) in_flight: IntGaugeVec,
    pub(super) permits: IntGaugeVec,
    pub(super) oldest: IntGaugeVec,
    pub(super) overdue: IntCounterVec,
    pub(super) dead_letters: IntCounterVec,
}

impl DeliveryFamilies {
    fn new(families: &Families<'_>, stages: &[&StageDef]) -> Result<Self, Error> {
        let stage = || names(stages);
        Ok(Self {
            events: families.counters(
                "events_total",
                "Deliveries by outcome (also in the log): done; try-again (delay queue, attempt counted if the failure is the event's own); wait (delay \
                 queue, attempt not counted: for example, an API is down or refuses our token); early (not due yet: \
                 delay queue again); dead (dead queue); requeued (amqp.delivery_timeout exceeded, or the worker stopped \
                 or panicked); unfulfilled (requeued: outcome could not be carried out); lost (channel \
                 closed: the broker redelivers it).",
                &[stage(), ("outcome", SettledKind::texts())],
            )?,
            durations: families.histograms(
                "event_duration_seconds",
                "Time from receiving a delivery to its settlement, by outcome.",
                EVENT_BUCKETS,
                &[stage(), ("outcome", SettledKind::texts())],
            )?,
            in_flight: families.gauges("in_flight", "Deliveries currently being processed.", &[stage()])?,
            permits: families.gauges(
                "permits",
                "Maximum deliveries processed at once (amqp.concurrency); 0 for a stage that does not run in this worker.",
                &[stage()],
            )?,
            oldest: families.gauges(
                "oldest_work_seconds",
                "Age of the oldest delivery in progress; 0 if none. Deliveries older than amqp.delivery_timeout are requeued.",
                &[stage()],
            )?,
            overdue: families.counters(
                "overdue_total",
                "Deliveries requeued because processing exceeded amqp.delivery_timeout, or could not begin within it.",
                &[stage()],
            )?,
            dead_letters: families.counters(
                "dead_letters_total",
                "Dead letters published and confirmed, by class (header x-dead-class).",
                &[stage(), ("class", Class::texts())],
            )?,
        })
    }
}

/// Families about the consumers and their queues.
#[derive(Debug)]
pub(super) struct ConsumerFamilies {
    pub(super) silent: IntCounterVec,
    pub(super) queued: IntGaugeVec,
    pub(super) consuming: IntGaugeVec,
}

impl ConsumerFamilies {
    fn new(families: &Families<'_>, stages: &[&StageDef]) -> Result<Self, Error> {
        let stage = || names(stages);
        Ok(Self {
            silent: families.counters(
                "silent_consumers_total",
                "Consumers reconnected because nothing was delivered although messages were ready, or although the broker reported no consumer.",
                &[stage()],
            )?,
            queued: families.gauges(
                "queue_messages",
                "Messages ready in the stage's work queue (work), delay queues (held) and dead queue (dead), read every \
                 amqp.watch_interval. Absent after a failed connection attempt until the next read, after three checks in a row that could not read it in time, and if the broker denies reading it.",
                &[stage(), ("queue", QueueKind::texts())],
            )?,
            consuming: families.gauges(
                "consuming",
                "1 if this stage is subscribed to its queue; 0 while disconnected, between the breaker's probes, and for a \
                 stage that does not run in this worker.",
                &[stage()],
            )?,
        })
    }
}

/// Families about retries and delay queues.
#[derive(Debug)]
pub(super) struct DelayFamilies {
    pub(super) retries: IntCounterVec,
    pub(super) holds: IntCounterVec,
    pub(super) returns: IntCounterVec,
    /// The labels of the configured delay queues.
    pub(super) rungs: Vec<String>,
}

impl DelayFamilies {
    fn new(families: &Families<'_>, stages: &[&StageDef], rungs: &[String]) -> Result<Self, Error> {
        let stage = || names(stages);
        let labels: Vec<_> = rungs.iter().map(String::as_str).collect();
        Ok(Self {
            retries: families.counters(
                "retries_total",
                "Deliveries put into a delay queue for a retry, by reason (header x-retry-reason).",
                &[stage(), ("reason", Cause::texts())],
            )?,
            holds: families.counters(
                "holds_total",
                "Copies put into a delay queue, by its delay in milliseconds (the end of its name). Exceeds retries_total \
                 if messages were delayed again.",
                &[stage(), ("rung", labels.clone())],
            )?,
            returns: families.counters(
                "returns_total",
                "Deliveries that returned from a delay queue, by its delay in milliseconds. Each counts once, regardless \
                 of the worker that delayed it. In the long run equal to holds_total, unless messages stay in a delay queue.",
                &[stage(), ("rung", [&labels[..], &[OTHER_RUNG]].concat())],
            )?,
            rungs: rungs.to_vec(),
        })
    }
}

/// The counter of links, with a series for each route of `stages`.
fn links(families: &Families<'_>, stages: &[&StageDef]) -> Result<IntCounterVec, Error> {
    let published = families.counters(
        "links_total",
        "Links published and confirmed by the broker, including repeats.",
        &[("role", vec![]), ("channel", vec![])],
    )?;
    for route in stages.iter().flat_map(|stage| stage.routes) {
        published.get_metric_with_label_values(&[route.role, route.channel])?;
    }
    Ok(published)
}

/// The label `stage` and all its values.
pub(in crate::telemetry::metrics) fn names(stages: &[&StageDef]) -> Dimension<'static> {
    ("stage", stages.iter().map(|stage| stage.name).collect())
}
