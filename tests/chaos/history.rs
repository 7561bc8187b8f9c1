//! A compact record of every event: its publishes and its results.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use instant_connect_sandbox::{Handle, RecordedCall, RecordedMessage, RecordedRole};
use serde_json::Value;
use testkit::rig::BASE_URL;
use tokio::{sync::watch, time::timeout};

use super::event::{Kind, Start};

/// Maximum time without any progress. A worker waits 120 s for a late confirm before it publishes again, and a stalled consumer is
/// noticed after a minute.
const PROGRESS_LIMIT: Duration = Duration::from_secs(300);
/// Number of examples that are kept of each failure.
pub(super) const EXAMPLES: usize = 20;

/// Messages for one person.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    times: u32,
    id: u64,
    url: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Record {
    /// Number of publishes; more than one if a confirm was lost.
    published: u32,
    confirmed: bool,
    pub(super) finished: bool,
    calls: u32,
    guests: [Seen; 2],
    host: Seen,
    /// Time of the first call of Instant Connect for its links.
    called: Option<Instant>,
    /// A response of Webex was cut, so a repeated message is legitimate.
    host_cut: bool,
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

    fn change(&self, act: impl FnOnce(&mut Inner)) {
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
            inner.confirmed += 1;
            inner.records[start.0 as usize].confirmed = true;
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
        self.until(|inner| inner.confirmed.saturating_sub(inner.finished) < window).await;
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
    fn sent(&self, start: Start) -> bool {
        self.records.get(start.0 as usize).is_some_and(|record| record.published > 0)
    }

    fn unexpected(&mut self, why: String) {
        self.unexpected += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(why);
        }
    }

    fn finish(&mut self, start: Start) {
        let record = &mut self.records[start.0 as usize];
        let served = record.host.times > 0
            && record.guests[..start.guests() as usize].iter().all(|seen| seen.times > 0);
        if !record.finished && (served || record.dead > 0) {
            record.finished = true;
            self.finished += 1;
        }
    }

    pub(super) fn lost(&self) -> Vec<u32> {
        let records = self.records.iter().zip(0..);
        records.filter(|(record, _)| record.confirmed && !record.finished).map(|(_, n)| n).collect()
    }
}

fn guest_link(
    inner: &mut Inner,
    message_id: &str,
    redelivered: bool,
    body: &[u8],
    sandbox: &Handle,
) -> Result<(), String> {
    let body: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let start = Start::of(body["sessionId"].as_str(), "chaos-").filter(|start| inner.sent(*start));
    let start = start.ok_or_else(|| format!("a guest link for {}", body["sessionId"]))?;
    let guest = (0..start.guests()).find(|guest| body["to"] == start.number(*guest));
    let guest = guest.ok_or_else(|| format!("{} has a link for {}", start.id(), body["to"]))?;
    let short = body["short"].as_str().unwrap_or_default();
    let link =
        sandbox.link(short).ok_or_else(|| format!("{}: the API never made link {short}", start.id()))?;
    let right = start.kind() == Kind::Good
        && body["eventId"] == start.id()
        && body["channel"] == Start::channel(guest)
        && body["url"] == format!("{BASE_URL}{short}")
        && body.get("expert").is_none()
        && (link.role, &link.sub) == (RecordedRole::Guest, &start.session());
    if !right {
        return Err(format!("{}: {:?} link of {} in {body}", start.id(), link.role, link.sub));
    }
    let seen = &mut inner.records[start.0 as usize].guests[guest as usize];
    let (id, url) = (hash(message_id), hash(short));
    seen.times += 1;
    if seen.times == 1 {
        (seen.id, seen.url) = (id, url);
    } else if redelivered && (seen.id, seen.url) == (id, url) {
        inner.redelivered += 1;
    } else {
        inner.repeated_same_id += u64::from(seen.id == id);
        inner.repeated_other_id += u64::from(seen.id != id);
        inner.other_link += u64::from(seen.url != url);
    }
    inner.finish(start);
    Ok(())
}

fn host_message(inner: &mut Inner, message: &RecordedMessage, sandbox: &Handle) -> Result<(), String> {
    let email = message.to_person_email.as_deref().unwrap_or_default();
    let start = Start::of(email.strip_suffix("@example.com"), "expert-");
    let start = start.filter(|start| inner.sent(*start)).ok_or_else(|| format!("a message to {email}"))?;
    let url = message.attachments.first().and_then(|card| card["content"]["actions"][0]["url"].as_str());
    let short = url.and_then(|url| url.strip_prefix(BASE_URL)).unwrap_or_default();
    let link = sandbox.link(short).ok_or_else(|| format!("{email}: the API never made link {short}"))?;
    if start.kind() != Kind::Good || (link.role, &link.sub) != (RecordedRole::Host, &start.session()) {
        return Err(format!("{email} got a {:?} link of {}", link.role, link.sub));
    }
    let record = &mut inner.records[start.0 as usize];
    let (cut, url) = (record.host_cut, hash(short));
    record.host.times += 1;
    record.host_cut = message.fault.is_some();
    if record.host.times == 1 {
        record.host.url = url;
        if let (Some((what, since)), Some(called)) = (inner.recovering, record.called)
            && called >= since
        {
            inner.recovering = None;
            inner.faults.entry(what).or_default().recovered.push(since.elapsed().as_secs_f64());
        }
    } else {
        inner.other_link += u64::from(record.host.url != url);
        let count = if cut { &mut inner.hosts_repeated_cut } else { &mut inner.hosts_repeated };
        *count += 1;
    }
    inner.finish(start);
    Ok(())
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
