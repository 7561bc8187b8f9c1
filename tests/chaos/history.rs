//! A compact record of every event: its publishes and its results.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use instant_connect_sandbox::{Handle, RecordedCall, RecordedMessage};
use serde_json::Value;
use tokio::{sync::watch, time::timeout};

use super::{
    edges::EdgeRecords,
    event::{Kind, Start},
    messages::{guest_link, host_message},
};

/// Maximum time without any progress. A worker waits 120 s for a late confirm before it publishes again, and a stalled consumer is
/// noticed after a minute. RabbitMQ moves a message out of a delay queue again after three to six minutes, if the work queue had no leader
/// the first time (`rabbit_fifo_dlx_worker`, `dead_letter_worker_publisher_confirm_timeout`).
const PROGRESS_LIMIT: Duration = Duration::from_secs(420);
/// Number of examples that are kept of each failure.
pub(super) const EXAMPLES: usize = 20;

/// Messages for one person.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) times: u32,
    pub(super) id: u64,
    pub(super) url: u64,
    /// A dead letter says why there may be no message.
    pub(super) dead: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Record {
    /// Number of publishes; more than one if a confirm was lost.
    pub(super) published: u32,
    pub(super) confirmed: bool,
    pub(super) finished: bool,
    pub(super) calls: u32,
    pub(super) guests: [Seen; 2],
    pub(super) host: Seen,
    /// Time of the first call of Instant Connect for its links.
    pub(super) called: Option<Instant>,
    /// A response of Webex was cut, so a repeated message is legitimate.
    pub(super) host_cut: bool,
    pub(super) dead: u32,
}

/// The effect of one kind of fault.
#[derive(Default)]
pub(super) struct Fault {
    pub(super) times: u32,
    /// Seconds from each end of the fault to the first event that started after it and was processed.
    pub(super) recovered: Vec<f64>,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) records: Vec<Record>,
    pub(super) confirmed: u32,
    pub(super) finished: u32,
    pub(super) published: u64,
    pub(super) calls: u64,
    pub(super) calls_repeated: u64,
    pub(super) links: u64,
    pub(super) messages: u64,
    /// Redeliveries to the test's own consumer.
    pub(super) redelivered: u64,
    pub(super) repeated_same_id: u64,
    pub(super) repeated_other_id: u64,
    pub(super) other_link: u64,
    pub(super) hosts_repeated_cut: u64,
    pub(super) hosts_repeated: u64,
    pub(super) dead: BTreeMap<String, u64>,
    pub(super) dead_repeated: u64,
    pub(super) dead_unexplained: Vec<String>,
    pub(super) unexpected: u64,
    pub(super) examples: Vec<String>,
    pub(super) faults: BTreeMap<&'static str, Fault>,
    pub(super) recovering: Option<(&'static str, Instant)>,
    pub(super) edges: EdgeRecords,
}

/// The history of a run.
pub(crate) struct History {
    inner: Mutex<Inner>,
    version: watch::Sender<u64>,
    pub(super) begun: Instant,
    /// Classes of dead letters that the faults explain.
    explained_classes: Vec<&'static str>,
}

impl History {
    pub(crate) fn new(events: u32, explained_classes: &[&'static str]) -> Self {
        let records = vec![Record::default(); events as usize];
        Self {
            inner: Mutex::new(Inner { records, ..Inner::default() }),
            version: watch::Sender::new(0),
            begun: Instant::now(),
            explained_classes: explained_classes.to_vec(),
        }
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change(&self, act: impl FnOnce(&mut Inner)) {
        act(&mut self.inner());
        self.version.send_modify(|version| *version += 1);
    }

    pub(crate) fn published(&self, start: Start) {
        self.change(|inner| {
            inner.published += 1;
            inner.records[start.0 as usize].published += 1;
        });
    }

    pub(crate) fn confirmed(&self, start: Start) {
        self.change(|inner| {
            let record = &mut inner.records[start.0 as usize];
            inner.confirmed += u32::from(!record.confirmed);
            record.confirmed = true;
        });
    }

    /// Records a guest link.
    pub(crate) fn guest_link(&self, message_id: &str, redelivered: bool, body: &[u8], sandbox: &Handle) {
        self.change(|inner| {
            inner.links += 1;
            if let Err(why) = guest_link(inner, message_id, redelivered, body, sandbox) {
                inner.unexpected(why);
            }
        });
    }

    /// Records a message to an expert.
    pub(crate) fn host_message(&self, message: &RecordedMessage, sandbox: &Handle) {
        self.change(|inner| {
            inner.messages += 1;
            if let Err(why) = host_message(inner, message, sandbox) {
                inner.unexpected(why);
            }
        });
    }

    /// Records a call of Instant Connect.
    pub(crate) fn call(&self, call: &RecordedCall) {
        self.change(|inner| {
            inner.calls += 1;
            let start = Start::of(Some(&call.sub), "chaos-").filter(|start| inner.sent(*start));
            let Some(start) = start else { return inner.unexpected(format!("a call for {}", call.sub)) };
            if start.kind() != Kind::Good || call.devices != start.devices() {
                inner.unexpected(format!("a call for {} with devices {:?}", call.sub, call.devices));
            }
            if (call.hosts, call.guests) != (1, start.guests() as usize) {
                inner.unexpected(format!("{} hosts, {} guests for {}", call.hosts, call.guests, call.sub));
            }
            let record = &mut inner.records[start.0 as usize];
            record.calls += 1;
            record.called.get_or_insert_with(Instant::now);
            inner.calls_repeated += u64::from(record.calls > 1);
        });
    }

    /// Records a dead letter from the given queue.
    pub(crate) fn dead_letter(&self, queue: &str, message_id: &str, class: &str, reason: &str, body: &[u8]) {
        self.change(|inner| {
            let by_id = Start::of(Some(message_id), "event-");
            let start = by_id.or_else(|| {
                let body: Value = serde_json::from_slice(body).ok()?;
                Start::of(body["sessionId"].as_str(), "chaos-")
            });
            *inner.dead.entry(format!("{queue} {class}")).or_default() += 1;
            let Some(start) = start.filter(|start| inner.sent(*start)) else {
                return inner.unexpected(format!("a dead letter {message_id}"));
            };
            if inner.finish_guest(queue, start, class, reason, body) {
                return;
            }
            let expected = match start.kind() {
                Kind::Good => self.explained_classes.contains(&class),
                Kind::Invalid => class == "invalid",
                Kind::Forbidden => class == "device-not-allowed",
            };
            if !expected && inner.dead_unexplained.len() < EXAMPLES {
                inner.dead_unexplained.push(format!("{} in {queue}: {class}: {reason}", start.id()));
            }
            let record = &mut inner.records[start.0 as usize];
            record.dead += 1;
            inner.dead_repeated += u64::from(record.dead > 1);
            inner.finish(start);
        });
    }

    /// Records the start of a fault.
    pub(crate) fn disturbed(&self, what: &'static str) {
        self.say(what);
        self.change(|inner| {
            inner.faults.entry(what).or_default().times += 1;
            // A recovery that did not finish before the next fault is not measured.
            inner.recovering = None;
        });
    }

    /// Records the end of a fault. The recovery ends with the first event that starts after it and reaches its
    /// expert.
    pub(crate) fn healed(&self, what: &'static str) {
        self.say(&format!("{what}: over"));
        self.change(|inner| inner.recovering = Some((what, Instant::now())));
    }

    fn say(&self, what: &str) {
        let (since, finished) = (self.begun.elapsed().as_secs_f64(), self.inner().finished);
        eprintln!("{since:7.1} s, {finished:6} finished: {what}");
    }

    /// How far the run is.
    pub(super) fn summary(&self) -> String {
        let inner = self.inner();
        format!(
            "{} published, {} confirmed, {} calls, {} guest links, {} host messages, {} finished, missing events: {:?}",
            inner.published,
            inner.confirmed,
            inner.calls,
            inner.links,
            inner.messages,
            inner.finished,
            inner.lost()
        )
    }

    /// Waits until the recovery ended, or all events are finished.
    pub(crate) async fn until_recovered(&self) {
        let events = u32::try_from(self.inner().records.len()).unwrap();
        self.until(|inner| inner.recovering.is_none() || inner.finished == events).await;
    }

    /// Waits until the broker confirmed this many events.
    pub(crate) async fn until_confirmed(&self, count: u32) {
        self.until(|inner| inner.confirmed >= count).await;
    }

    /// Waits until this many events are finished.
    pub(crate) async fn until_finished(&self, count: u32) {
        self.until(|inner| inner.finished >= count).await;
    }

    /// Waits until fewer than `window` events are unfinished.
    pub(crate) async fn until_fewer_than(&self, window: u32) {
        let begun = |inner: &Inner| inner.confirmed + inner.edges.refused;
        self.until(|inner| begun(inner).saturating_sub(inner.finished) < window).await;
    }

    /// Waits until each confirmed receipt is published.
    pub(crate) async fn until_receipts_are_published(&self) {
        self.until(|inner| inner.edges.receipts_missing() == 0).await;
    }

    /// Waits for a condition. Panics if nothing happens for [`PROGRESS_LIMIT`].
    async fn until(&self, mut condition: impl FnMut(&Inner) -> bool) {
        let mut version = self.version.subscribe();
        loop {
            version.borrow_and_update();
            if condition(&self.inner()) {
                return;
            }
            let changed = timeout(PROGRESS_LIMIT, version.changed()).await.is_ok();
            assert!(changed, "no progress for {PROGRESS_LIMIT:?}: {}", self.summary());
        }
    }
}

impl Inner {
    pub(super) fn sent(&self, start: Start) -> bool {
        self.records.get(start.0 as usize).is_some_and(|record| record.published > 0)
    }

    pub(super) fn unexpected(&mut self, why: String) {
        self.unexpected += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(why);
        }
    }

    pub(super) fn finish(&mut self, start: Start) {
        let record = &mut self.records[start.0 as usize];
        let served = record.host.times > 0
            && record.guests[..start.guests() as usize].iter().all(|seen| seen.times > 0 || seen.dead);
        if !record.finished && (served || record.dead > 0) {
            record.finished = true;
            self.finished += 1;
        }
    }

    /// Finishes an event whose request was refused. Returns true if it was not finished before.
    pub(super) fn finish_refused(&mut self, start: Start) -> bool {
        let record = &mut self.records[start.0 as usize];
        let is_new = !record.finished;
        record.finished = true;
        self.finished += u32::from(is_new);
        is_new
    }

    pub(super) fn lost(&self) -> Vec<u32> {
        let records = self.records.iter().zip(0..);
        records.filter(|(record, _)| record.confirmed && !record.finished).map(|(_, n)| n).collect()
    }
}
