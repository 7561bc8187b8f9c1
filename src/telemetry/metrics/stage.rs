//! Metrics of a stage.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use prometheus::{Error, Histogram, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec};
use strum::VariantArray;
use tokio::time::Instant;

use super::{
    EVENT_BUCKETS,
    connection::{ConnectionMetrics, Up},
    families::{Dimension, Families},
    labels::{Label, QueueKind},
    upstream::BreakerMetrics,
};
use crate::{
    clock,
    contract::{outgoing::Route, stage::StageDef},
    outcome::{Cause, Class, SettledKind},
};

/// The metric families of the stages. Most have a label `stage`.
#[derive(Debug)]
pub(super) struct StageFamilies {
    deliveries: DeliveryFamilies,
    consumers: ConsumerFamilies,
    delays: DelayFamilies,
    links: IntCounterVec,
    stages: Vec<StageSeries>,
}

/// The parts of one stage that have no label `stage`.
#[derive(Debug)]
struct StageSeries {
    stage: &'static StageDef,
    work: InProgress,
    latency: Histogram,
}

impl StageFamilies {
    pub(super) fn new(
        families: &Families<'_>,
        stages: &[&'static StageDef],
        rungs: &[String],
    ) -> Result<Self, Error> {
        let series = |stage: &'static StageDef| {
            let latency = families.histogram(stage.latency.name, stage.latency.help, EVENT_BUCKETS)?;
            Ok(StageSeries { stage, work: InProgress::default(), latency })
        };
        Ok(Self {
            deliveries: DeliveryFamilies::new(families, stages)?,
            consumers: ConsumerFamilies::new(families, stages)?,
            delays: DelayFamilies::new(families, stages, rungs)?,
            links: links(families, stages)?,
            stages: stages.iter().copied().map(series).collect::<Result<_, Error>>()?,
        })
    }

    /// The series of `stage`; `None` if it is not in the table of these metrics.
    fn of(&self, stage: &StageDef) -> Option<&StageSeries> {
        self.stages.iter().find(|series| series.stage.name == stage.name)
    }

    /// Updates the gauges that are computed on each scrape.
    pub(super) fn refresh(&self) {
        for StageSeries { stage, work, .. } in &self.stages {
            let age = work.oldest().unwrap_or_default();
            let seconds = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
            self.deliveries.oldest.with_label_values(&[stage.name]).set(seconds);
        }
    }
}

/// Families about deliveries, from their receipt to their settlement.
#[derive(Debug)]
struct DeliveryFamilies {
    events: IntCounterVec,
    durations: HistogramVec,
    in_flight: IntGaugeVec,
    permits: IntGaugeVec,
    oldest: IntGaugeVec,
    overdue: IntCounterVec,
    dead_letters: IntCounterVec,
}

impl DeliveryFamilies {
    fn new(families: &Families<'_>, stages: &[&StageDef]) -> Result<Self, Error> {
        let stage = || names(stages);
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
struct ConsumerFamilies {
    silent: IntCounterVec,
    queued: IntGaugeVec,
    consuming: IntGaugeVec,
}

impl ConsumerFamilies {
    fn new(families: &Families<'_>, stages: &[&StageDef]) -> Result<Self, Error> {
        let stage = || names(stages);
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
struct DelayFamilies {
    retries: IntCounterVec,
    holds: IntCounterVec,
    returns: IntCounterVec,
    /// The labels of the configured delay queues.
    rungs: Vec<String>,
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
                 of the worker that delayed it. In the long run equal to holds_total, unless the broker keeps some.",
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
pub(super) fn names(stages: &[&StageDef]) -> Dimension<'static> {
    ("stage", stages.iter().map(|stage| stage.name).collect())
}

/// The metrics of one stage.
#[derive(Clone, Debug)]
pub struct StageMetrics {
    pub(super) stage: &'static StageDef,
    pub(super) families: Arc<StageFamilies>,
    /// The stage's connection to the broker.
    pub connection: ConnectionMetrics,
    /// The breaker of the API that the stage calls.
    pub breaker: BreakerMetrics,
}

impl StageMetrics {
    /// Starts the timer of a delivery.
    #[must_use]
    pub fn begin(&self) -> WorkTimer {
        self.gauge(&self.families.deliveries.in_flight).inc();
        let number = self.in_progress().map_or(0, InProgress::begin);
        WorkTimer { metrics: self.clone(), number, since: Instant::now(), ended: SettledKind::Requeued }
    }

    /// Sets the maximum number of deliveries in progress.
    pub fn set_permits(&self, permits: usize) {
        self.gauge(&self.families.deliveries.permits).set(i64::try_from(permits).unwrap_or(i64::MAX));
    }

    /// Records that the broker delivers, until the returned value is dropped.
    #[must_use]
    pub fn consuming(&self) -> Up {
        Up::new(self.gauge(&self.families.consumers.consuming))
    }

    /// True if the broker delivers.
    #[must_use]
    pub fn is_consuming(&self) -> bool {
        self.gauge(&self.families.consumers.consuming).get() != 0
    }

    /// Age of the oldest delivery in progress.
    #[must_use]
    pub fn oldest_work(&self) -> Option<Duration> {
        self.in_progress()?.oldest()
    }

    /// Number of deliveries received so far.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.in_progress().map_or(0, |work| work.next.load(Ordering::Relaxed))
    }

    /// Counts a stalled consumer.
    pub fn silent(&self) {
        self.families.consumers.silent.with_label_values(&[self.stage.name]).inc();
    }

    /// Sets the numbers of messages in the stage's queues, in the order of [`QueueKind`].
    pub fn set_queued(&self, messages: [u64; 3]) {
        for (queue, messages) in QueueKind::VARIANTS.iter().zip(messages) {
            let gauge = self.families.consumers.queued.with_label_values(&[self.stage.name, queue.as_str()]);
            gauge.set(i64::try_from(messages).unwrap_or(i64::MAX));
        }
    }

    /// Removes the queue lengths, because they are unknown while disconnected.
    pub fn forget_queued(&self) {
        for queue in QueueKind::VARIANTS {
            // An error means that the series is absent already.
            _ = self.families.consumers.queued.remove_label_values(&[self.stage.name, queue.as_str()]);
        }
    }

    /// Counts a delivery that is requeued because of `amqp.delivery_timeout`.
    pub fn overdue(&self) {
        self.families.deliveries.overdue.with_label_values(&[self.stage.name]).inc();
    }

    /// Counts a retry because of `cause`.
    pub fn retried(&self, cause: Cause) {
        self.count(&self.families.delays.retries, cause.as_str());
    }

    /// Counts a copy in the delay queue of `delay`.
    pub fn held(&self, delay: Duration) {
        self.count(&self.families.delays.holds, &rung(delay));
    }

    /// Counts a message that returned from the delay queue of `delay`.
    pub fn returned(&self, delay: Duration) {
        let rung = rung(delay);
        // The delay may come from another configuration or from a publisher. A message must not create a label value.
        let known = self.families.delays.rungs.contains(&rung);
        self.count(&self.families.delays.returns, if known { &rung } else { OTHER_RUNG });
    }

    /// Counts a dead letter of `class`.
    pub fn dead(&self, class: Class) {
        self.count(&self.families.deliveries.dead_letters, class.as_str());
    }

    /// Counts a confirmed message that took `route`.
    pub fn published(&self, route: Route) {
        self.families.links.with_label_values(&[route.role, route.channel]).inc();
    }

    /// Records the time since `began` when the people have what the stage makes.
    pub fn delivered(&self, began: Timestamp) {
        let took = Duration::try_from(clock::now().duration_since(began)).unwrap_or_default();
        if let Some(series) = self.families.of(self.stage) {
            series.latency.observe(took.as_secs_f64());
        }
    }

    fn in_progress(&self) -> Option<&InProgress> {
        self.families.of(self.stage).map(|series| &series.work)
    }

    fn gauge(&self, family: &IntGaugeVec) -> IntGauge {
        family.with_label_values(&[self.stage.name])
    }

    fn count(&self, family: &IntCounterVec, value: &str) {
        family.with_label_values(&[self.stage.name, value]).inc();
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
    number: u64,
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
        let Self { metrics, number, since, ended } = self;
        if let Some(work) = metrics.in_progress() {
            work.end(*number);
        }
        metrics.gauge(&metrics.families.deliveries.in_flight).dec();
        let labels = [metrics.stage.name, ended.as_str()];
        metrics.families.deliveries.events.with_label_values(&labels).inc();
        metrics
            .families
            .deliveries
            .durations
            .with_label_values(&labels)
            .observe(since.elapsed().as_secs_f64());
    }
}

/// Start times of the deliveries in progress. Numbers ascend, so the first is the oldest.
#[derive(Debug, Default)]
struct InProgress {
    next: AtomicU64,
    since: Mutex<BTreeMap<u64, Instant>>,
}

impl InProgress {
    fn begin(&self) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, Instant::now());
        number
    }

    fn end(&self, number: u64) {
        self.lock().remove(&number);
    }

    fn oldest(&self) -> Option<Duration> {
        self.lock().first_key_value().map(|(_, since)| since.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
