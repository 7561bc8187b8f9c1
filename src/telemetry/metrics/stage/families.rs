//! The metric families of the stages.

use prometheus::{Error, Histogram, HistogramVec, IntCounterVec, IntGaugeVec};
use strum::VariantArray as _;

use super::OTHER_RUNG;
use crate::{
    contract::link::Recipient,
    outcome::{Cause, Class, SettledKind},
    state::WorkerState,
    telemetry::metrics::{
        EVENT_BUCKETS,
        families::{Dimension, Families},
        labels::{Label, QueueKind, StageName},
    },
};

/// The metric families of the stages. Most have a label `stage`.
#[derive(Debug)]
pub(in crate::telemetry::metrics) struct StageFamilies {
    pub(super) deliveries: DeliveryFamilies,
    pub(super) consumers: ConsumerFamilies,
    pub(super) delays: DelayFamilies,
    pub(super) links: LinkFamilies,
}

impl StageFamilies {
    pub(in crate::telemetry::metrics) fn new(
        families: &Families<'_>,
        rungs: &[String],
    ) -> Result<Self, Error> {
        Ok(Self {
            deliveries: DeliveryFamilies::new(families)?,
            consumers: ConsumerFamilies::new(families)?,
            delays: DelayFamilies::new(families, rungs)?,
            links: LinkFamilies::new(families)?,
        })
    }

    /// Sets the gauges from the state.
    pub(in crate::telemetry::metrics) fn show(&self, state: &WorkerState) {
        for stage in StageName::VARIANTS {
            let (state, labels) = (state.stage(stage.as_str()), [stage.as_str()]);
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
    fn new(families: &Families<'_>) -> Result<Self, Error> {
        Ok(Self {
            events: families.counters(
                "events_total",
                "Deliveries by outcome (also in the log): done; try-again (delay queue, attempt counted if the failure is the event's own); wait (delay \
                 queue, attempt not counted: for example, an API is down or rejects our token); early (not due yet: \
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
                "Deliveries requeued because processing exceeded amqp.delivery_timeout.",
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
    fn new(families: &Families<'_>) -> Result<Self, Error> {
        Ok(Self {
            silent: families.counters(
                "silent_consumers_total",
                "Consumers reconnected because messages were ready but none were delivered.",
                &[stage()],
            )?,
            queued: families.gauges(
                "queue_messages",
                "Messages ready in the stage's work queue (work), delay queues (held) and dead queue (dead), read every \
                 amqp.watch_interval. Absent while disconnected.",
                &[stage(), ("queue", QueueKind::texts())],
            )?,
            consuming: families.gauges(
                "consuming",
                "1 if the broker delivers to this stage; 0 while disconnected, between the breaker's probes, and for a \
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
    fn new(families: &Families<'_>, rungs: &[String]) -> Result<Self, Error> {
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
                 of the worker that delayed it. In the long run equal to holds_total, unless the broker keeps some.",
                &[stage(), ("rung", [&labels[..], &[OTHER_RUNG]].concat())],
            )?,
            rungs: rungs.to_vec(),
        })
    }
}

/// Families about links and the time until people have them.
#[derive(Debug)]
pub(super) struct LinkFamilies {
    pub(super) published: IntCounterVec,
    pub(super) event_to_link: Histogram,
    pub(super) link_to_expert: Histogram,
}

impl LinkFamilies {
    fn new(families: &Families<'_>) -> Result<Self, Error> {
        let published = families.counters(
            "links_total",
            "Links published and confirmed by the broker, including repeats.",
            &[("role", vec![]), ("channel", vec![])],
        )?;
        for recipient in Recipient::ALL {
            published.get_metric_with_label_values(&[recipient.role(), recipient.channel()])?;
        }
        Ok(Self {
            published,
            event_to_link: families.histogram(
                "event_to_link_seconds",
                "Time from the event to the confirm of all its links, including delay queues. The event's time is its \
                 CloudEvent time, else the AMQP timestamp (whole seconds, which adds up to one second), else its first \
                 delivery.",
                EVENT_BUCKETS,
            )?,
            link_to_expert: families.histogram(
                "link_to_expert_seconds",
                "Time from publishing a host link (AMQP timestamp in whole seconds, which adds up to one second) until \
                 Webex has the expert's message, including delay queues.",
                EVENT_BUCKETS,
            )?,
        })
    }
}

/// The label `stage` and all its values.
fn stage() -> Dimension<'static> {
    ("stage", StageName::texts())
}
