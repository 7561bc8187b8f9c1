//! What a stage does.

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
    families::Families,
    labels::{Connection, Label, Queue, Stage},
    upstream::BreakerMetrics,
};
use crate::{
    clock,
    contract::link::Recipient,
    outcome::{Cause, Class, SettledKind},
};

/// The families with a label `stage`.
#[derive(Debug)]
pub(super) struct StageFamilies {
    events: IntCounterVec,
    durations: HistogramVec,
    in_flight: IntGaugeVec,
    permits: IntGaugeVec,
    oldest: IntGaugeVec,
    overdue: IntCounterVec,
    silent: IntCounterVec,
    queued: IntGaugeVec,
    consuming: IntGaugeVec,
    retries: IntCounterVec,
    holds: IntCounterVec,
    returns: IntCounterVec,
    dead_letters: IntCounterVec,
    links: IntCounterVec,
    event_to_link: Histogram,
    link_to_expert: Histogram,
    /// The labels of the hold queues that are configured.
    rungs: Vec<String>,
    work: [Arc<InProgress>; 2],
}

impl StageFamilies {
    pub(super) fn new(families: &Families<'_>, rungs: &[String]) -> Result<Self, Error> {
        let stage = || ("stage", Stage::texts());
        let rungs: Vec<_> = rungs.iter().map(String::as_str).collect();
        let links = families.counters(
            "links_total",
            "Links published and confirmed by the broker, repeats included.",
            &[("role", vec![]), ("channel", vec![])],
        )?;
        for recipient in Recipient::ALL {
            links.get_metric_with_label_values(&[recipient.role(), recipient.channel()])?;
        }
        Ok(Self {
            events: families.counters(
                "events_total",
                "Deliveries, by how they ended (outcome in the log): done; try-again (held, its attempt counted); wait \
                 (held, nothing counted: the other side is down or refuses our token); early (held on); dead; \
                 requeued (kept past amqp.delivery_timeout, or the worker ends or failed); unfulfilled (given back: what was decided could not be done); lost \
                 (its channel was gone: the broker delivers it again).",
                &[stage(), ("outcome", SettledKind::texts())],
            )?,
            durations: families.histograms(
                "event_duration_seconds",
                "Time from taking a delivery to its settlement, by how it was settled.",
                EVENT_BUCKETS,
                &[stage(), ("outcome", SettledKind::texts())],
            )?,
            in_flight: families.gauges("in_flight", "Deliveries that are worked on now.", &[stage()])?,
            permits: families.gauges(
                "permits",
                "Deliveries that may be worked on at once (amqp.concurrency); 0 for a stage that does not run here.",
                &[stage()],
            )?,
            oldest: families.gauges(
                "oldest_work_seconds",
                "Age of the delivery that is worked on for longest; 0 without any. Beyond amqp.delivery_timeout it is given back.",
                &[stage()],
            )?,
            overdue: families.counters(
                "overdue_total",
                "Deliveries given back because they were worked on for longer than amqp.delivery_timeout.",
                &[stage()],
            )?,
            silent: families.counters(
                "silent_consumers_total",
                "Consumers that had fallen silent (messages waited, none was delivered) and were connected anew.",
                &[stage()],
            )?,
            queued: families.gauges(
                "queue_messages",
                "Messages ready in the stage's own queue (work), its hold queues (held) and its dead queue (dead), as \
                 of the last look (amqp.watch_interval). Absent when no connection can be made, until the first look after.",
                &[stage(), ("queue", Queue::texts())],
            )?,
            consuming: families.gauges(
                "consuming",
                "Whether the broker delivers to this stage (1); 0 while it is not connected, between the breaker's \
                 probes, and for a stage that does not run here.",
                &[stage()],
            )?,
            retries: families.counters(
                "retries_total",
                "Deliveries put into a hold queue to be tried again, by reason (header x-retry-reason).",
                &[stage(), ("reason", Cause::texts())],
            )?,
            holds: families.counters(
                "holds_total",
                "Copies put into a hold queue, by its delay in milliseconds, which ends its name. More than the \
                 retries where one had to be held again.",
                &[stage(), ("rung", rungs.clone())],
            )?,
            returns: families.counters(
                "returns_total",
                "Deliveries that came back from a hold queue, by its delay in milliseconds; each once, whoever put it there. \
                 In the long run as many as were held (holds_total), unless the broker keeps some.",
                &[stage(), ("rung", [&rungs[..], &[OTHER_RUNG]].concat())],
            )?,
            rungs: rungs.into_iter().map(str::to_owned).collect(),
            dead_letters: families.counters(
                "dead_letters_total",
                "Dead letters written and confirmed, by class (header x-dead-class).",
                &[stage(), ("class", Class::texts())],
            )?,
            links,
            event_to_link: families.histogram(
                "event_to_link_seconds",
                "Time from the event to the confirm of all its links, hold queues included. The event's time is that \
                 of its CloudEvent, else the AMQP timestamp (whole seconds, so up to one second is added), else when \
                 it was taken first.",
                EVENT_BUCKETS,
            )?,
            link_to_expert: families.histogram(
                "link_to_expert_seconds",
                "Time from the publishing of a host link (AMQP timestamp, whole seconds, so up to one second is added) \
                 to the moment when Webex has the expert's message, hold queues included.",
                EVENT_BUCKETS,
            )?,
            work: Default::default(),
        })
    }

    /// Sets what is worked out when somebody asks.
    pub(super) fn refresh(&self) {
        for stage in Stage::VARIANTS {
            let age = self.work[*stage as usize].oldest().unwrap_or_default();
            let seconds = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
            self.oldest.with_label_values(&[stage.as_str()]).set(seconds);
        }
    }
}

/// The metrics of one stage.
#[derive(Clone, Debug)]
pub struct StageMetrics {
    pub(super) stage: Stage,
    pub(super) families: Arc<StageFamilies>,
    /// Its connection to the broker.
    pub connection: ConnectionMetrics,
    /// The breaker of the API that it calls.
    pub breaker: BreakerMetrics,
}

impl StageMetrics {
    /// A delivery is worked on from now on.
    #[must_use]
    pub fn begin(&self) -> WorkTimer {
        self.gauge(&self.families.in_flight).inc();
        let (number, since) = self.in_progress().begin();
        WorkTimer { metrics: self.clone(), number, since, ended: SettledKind::Requeued }
    }

    /// How many deliveries may be worked on at once.
    pub fn set_permits(&self, permits: usize) {
        self.gauge(&self.families.permits).set(i64::try_from(permits).unwrap_or(i64::MAX));
    }

    /// The broker delivers, until the value is dropped.
    #[must_use]
    pub fn consuming(&self) -> Up {
        Up::new(self.gauge(&self.families.consuming))
    }

    /// Whether the broker delivers.
    #[must_use]
    pub fn is_consuming(&self) -> bool {
        self.gauge(&self.families.consuming).get() != 0
    }

    /// How long the oldest delivery has been worked on.
    #[must_use]
    pub fn oldest_work(&self) -> Option<Duration> {
        self.in_progress().oldest()
    }

    /// How many deliveries were taken so far.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.in_progress().next.load(Ordering::Relaxed)
    }

    /// The consumer had fallen silent.
    pub fn silent(&self) {
        self.families.silent.with_label_values(&[self.stage.as_str()]).inc();
    }

    /// How many messages are in the stage's queues, in the order of [`Queue`].
    pub fn set_queued(&self, messages: [u64; 3]) {
        for (queue, messages) in Queue::VARIANTS.iter().zip(messages) {
            let gauge = self.families.queued.with_label_values(&[self.stage.as_str(), queue.as_str()]);
            gauge.set(i64::try_from(messages).unwrap_or(i64::MAX));
        }
    }

    /// Nobody knows any more how many messages are in the stage's queues.
    pub fn forget_queued(&self) {
        for queue in Queue::VARIANTS {
            // One that is absent can't be removed, and need not be.
            _ = self.families.queued.remove_label_values(&[self.stage.as_str(), queue.as_str()]);
        }
    }

    /// A delivery is given back, as it was worked on for too long.
    pub fn overdue(&self) {
        self.families.overdue.with_label_values(&[self.stage.as_str()]).inc();
    }

    /// A delivery is to be tried again because of `cause`.
    pub fn retried(&self, cause: Cause) {
        self.count(&self.families.retries, cause.as_str());
    }

    /// A copy is in the hold queue of `delay`.
    pub fn held(&self, delay: Duration) {
        self.count(&self.families.holds, &rung(delay));
    }

    /// A message came back from the hold queue of `delay`.
    pub fn returned(&self, delay: Duration) {
        let rung = rung(delay);
        // One that another configuration declared, or a publisher made up: a label must not come from a message.
        let known = self.families.rungs.contains(&rung);
        self.count(&self.families.returns, if known { &rung } else { OTHER_RUNG });
    }

    /// A dead letter of `class` is written.
    pub fn dead(&self, class: Class) {
        self.count(&self.families.dead_letters, class.as_str());
    }

    /// A link to `recipient` is confirmed.
    pub fn linked(&self, recipient: Recipient) {
        self.families.links.with_label_values(&[recipient.role(), recipient.channel()]).inc();
    }

    /// All that was due since `began` is done: all links are published, or the expert's message is sent.
    pub fn delivered(&self, began: Timestamp) {
        let took = Duration::try_from(clock::now().duration_since(began)).unwrap_or_default();
        let histogram = match self.stage {
            Stage::Link => &self.families.event_to_link,
            Stage::Host => &self.families.link_to_expert,
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

    pub(super) fn connection_of(stage: Stage) -> Connection {
        match stage {
            Stage::Link => Connection::Link,
            Stage::Host => Connection::Host,
        }
    }
}

/// The label `rung` of a hold queue that is not configured here.
const OTHER_RUNG: &str = "other";

/// The label `rung` of a hold queue: milliseconds, as in its name.
pub(super) fn rung(delay: Duration) -> String {
    delay.as_millis().to_string()
}

/// A delivery that is worked on. Dropping it is an end, too: what is cancelled is measured as well.
#[derive(Debug)]
pub struct WorkTimer {
    metrics: StageMetrics,
    number: u64,
    since: Instant,
    ended: SettledKind,
}

impl WorkTimer {
    /// The delivery is settled.
    pub fn ended(mut self, how: SettledKind) {
        self.ended = how;
    }
}

impl Drop for WorkTimer {
    fn drop(&mut self) {
        let Self { metrics, number, since, ended } = self;
        metrics.in_progress().end(*number);
        metrics.gauge(&metrics.families.in_flight).dec();
        let labels = [metrics.stage.as_str(), ended.as_str()];
        metrics.families.events.with_label_values(&labels).inc();
        metrics.families.durations.with_label_values(&labels).observe(since.elapsed().as_secs_f64());
    }
}

/// Since when which work is in progress. Numbers ascend, so the first is the oldest.
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
