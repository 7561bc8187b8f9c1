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
    labels::{Connection, Label, QueueKind, StageName},
    upstream::BreakerMetrics,
};
use crate::{
    clock,
    contract::{link::ROUTES, outgoing::Route},
    outcome::{Cause, Class, SettledKind},
};

/// The metric families of the stages. Most have a label `stage`.
#[derive(Debug)]
pub(super) struct StageFamilies {
    deliveries: DeliveryFamilies,
    consumers: ConsumerFamilies,
    delays: DelayFamilies,
    links: LinkFamilies,
    work: [Arc<InProgress>; 2],
}

impl StageFamilies {
    pub(super) fn new(families: &Families<'_>, rungs: &[String]) -> Result<Self, Error> {
        Ok(Self {
            deliveries: DeliveryFamilies::new(families)?,
            consumers: ConsumerFamilies::new(families)?,
            delays: DelayFamilies::new(families, rungs)?,
            links: LinkFamilies::new(families)?,
            work: Default::default(),
        })
    }

    /// Updates the gauges that are computed on each scrape.
    pub(super) fn refresh(&self) {
        for stage in StageName::VARIANTS {
            let age = self.work[*stage as usize].oldest().unwrap_or_default();
            let seconds = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
            self.deliveries.oldest.with_label_values(&[stage.as_str()]).set(seconds);
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
struct ConsumerFamilies {
    silent: IntCounterVec,
    queued: IntGaugeVec,
    consuming: IntGaugeVec,
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
struct DelayFamilies {
    retries: IntCounterVec,
    holds: IntCounterVec,
    returns: IntCounterVec,
    /// The labels of the configured delay queues.
    rungs: Vec<String>,
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
struct LinkFamilies {
    published: IntCounterVec,
    event_to_link: Histogram,
    link_to_expert: Histogram,
}

impl LinkFamilies {
    fn new(families: &Families<'_>) -> Result<Self, Error> {
        let published = families.counters(
            "links_total",
            "Links published and confirmed by the broker, including repeats.",
            &[("role", vec![]), ("channel", vec![])],
        )?;
        for route in ROUTES {
            published.get_metric_with_label_values(&[route.role, route.channel])?;
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

/// The metrics of one stage.
#[derive(Clone, Debug)]
pub struct StageMetrics {
    pub(super) stage: StageName,
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
        let (number, since) = self.in_progress().begin();
        WorkTimer { metrics: self.clone(), number, since, ended: SettledKind::Requeued }
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
        self.in_progress().oldest()
    }

    /// Number of deliveries received so far.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.in_progress().next.load(Ordering::Relaxed)
    }

    /// Counts a stalled consumer.
    pub fn silent(&self) {
        self.families.consumers.silent.with_label_values(&[self.stage.as_str()]).inc();
    }

    /// Sets the numbers of messages in the stage's queues, in the order of [`QueueKind`].
    pub fn set_queued(&self, messages: [u64; 3]) {
        for (queue, messages) in QueueKind::VARIANTS.iter().zip(messages) {
            let gauge =
                self.families.consumers.queued.with_label_values(&[self.stage.as_str(), queue.as_str()]);
            gauge.set(i64::try_from(messages).unwrap_or(i64::MAX));
        }
    }

    /// Removes the queue lengths, because they are unknown while disconnected.
    pub fn forget_queued(&self) {
        for queue in QueueKind::VARIANTS {
            // An error means that the series is absent already.
            _ = self.families.consumers.queued.remove_label_values(&[self.stage.as_str(), queue.as_str()]);
        }
    }

    /// Counts a delivery that is requeued because of `amqp.delivery_timeout`.
    pub fn overdue(&self) {
        self.families.deliveries.overdue.with_label_values(&[self.stage.as_str()]).inc();
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
        self.families.links.published.with_label_values(&[route.role, route.channel]).inc();
    }

    /// Records the time since `began` when all links are published or the expert's message is sent.
    pub fn delivered(&self, began: Timestamp) {
        let took = Duration::try_from(clock::now().duration_since(began)).unwrap_or_default();
        let histogram = match self.stage {
            StageName::Link => &self.families.links.event_to_link,
            StageName::Host => &self.families.links.link_to_expert,
        };
        histogram.observe(took.as_secs_f64());
    }

    fn in_progress(&self) -> &InProgress {
        &self.families.work[self.stage as usize]
    }

    fn gauge(&self, family: &IntGaugeVec) -> IntGauge {
        family.with_label_values(&[self.stage.as_str()])
    }

    fn count(&self, family: &IntCounterVec, value: &str) {
        family.with_label_values(&[self.stage.as_str(), value]).inc();
    }

    pub(super) fn connection_of(stage: StageName) -> Connection {
        match stage {
            StageName::Link => Connection::Link,
            StageName::Host => Connection::Host,
        }
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
        metrics.in_progress().end(*number);
        metrics.gauge(&metrics.families.deliveries.in_flight).dec();
        let labels = [metrics.stage.as_str(), ended.as_str()];
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
    fn begin(&self) -> (u64, Instant) {
        let (number, now) = (self.next.fetch_add(1, Ordering::Relaxed), Instant::now());
        self.lock().insert(number, now);
        (number, now)
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
