//! What was sent and what came of it, in Jepsen's terms: a compact record of every event, and the verdict.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    fmt::Write as _,
    hash::{Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use instant_connect_worker::sandbox::{Call, Handle, Message, Role};
use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};

use super::{BASE_URL, PATIENCE};

/// Examples of what must not be that are kept.
const EXAMPLES: usize = 20;

/// What an event is, by its number alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Good,
    /// Has a field that nobody knows.
    Invalid,
    /// Names a device that nobody allowed.
    Forbidden,
}

/// Start event number `n`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start(pub(crate) u32);

impl Start {
    pub(crate) fn kind(self) -> Kind {
        match self.0 % 50 {
            7 => Kind::Invalid,
            23 => Kind::Forbidden,
            _ => Kind::Good,
        }
    }

    fn guests(self) -> u32 {
        1 + self.0 % 2
    }

    /// `event-{n}`
    pub(crate) fn id(self) -> String {
        format!("event-{}", self.0)
    }

    fn session(self) -> String {
        format!("chaos-{}", self.0)
    }

    fn number(self, guest: u32) -> String {
        format!("+346{:08}", 2 * self.0 + guest)
    }

    fn channel(guest: u32) -> &'static str {
        if guest == 0 { "whatsapp" } else { "sms" }
    }

    fn email(self) -> String {
        format!("expert-{}@example.com", self.0)
    }

    fn devices(self) -> Vec<String> {
        let name = match self.kind() {
            Kind::Forbidden => "spy",
            _ if self.0.is_multiple_of(5) => "room",
            _ => return Vec::new(),
        };
        vec![format!("{name}-{}@example.rooms.webex.com", self.0)]
    }

    pub(crate) fn body(self) -> Vec<u8> {
        let guests: Vec<_> = (0..self.guests())
            .map(|guest| json!({"channel": Self::channel(guest), "address": self.number(guest), "name": "Guadalupe"}))
            .collect();
        let mut body = json!({
            "sessionId": self.session(), "guests": guests, "experts": [{"email": self.email()}], "devices": self.devices(),
        });
        if self.kind() == Kind::Invalid {
            body["devises"] = json!([]);
        }
        body.to_string().into_bytes()
    }

    fn of(text: Option<&str>, prefix: &str) -> Option<Self> {
        text?.strip_prefix(prefix)?.parse().ok().map(Self)
    }
}

/// What came for one person.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    times: u32,
    id: u64,
    url: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    /// Publishes; more than one where a confirm was lost.
    published: u32,
    confirmed: bool,
    finished: bool,
    calls: u32,
    guests: [Seen; 2],
    host: Seen,
    host_since_ms: i64,
    /// A Webex answer did not arrive whole: the next message is nobody's fault.
    host_cut: bool,
    dead: u32,
}

#[derive(Default)]
struct Inner {
    records: Vec<Record>,
    confirmed: u32,
    finished: u32,
    published: u64,
    calls: u64,
    calls_repeated: u64,
    links: u64,
    messages: u64,
    /// Our own consumer got the same message again.
    redelivered: u64,
    repeated_same_id: u64,
    repeated_other_id: u64,
    other_link: u64,
    hosts_repeated_cut: u64,
    hosts_repeated_disturbed: u64,
    hosts_repeated: u64,
    dead: BTreeMap<String, u64>,
    dead_repeated: u64,
    dead_unexplained: Vec<String>,
    unexpected: u64,
    examples: Vec<String>,
    disturbed_ms: Vec<i64>,
    faults: BTreeMap<&'static str, u32>,
    recovering: Option<(&'static str, Instant)>,
    recovered: BTreeMap<&'static str, Vec<f64>>,
}

/// The record of a run.
pub(crate) struct History {
    inner: Mutex<Inner>,
    version: watch::Sender<u64>,
    begun: Instant,
    /// Classes of dead letters that the run's faults explain.
    explained: Vec<&'static str>,
}

impl History {
    pub(crate) fn new(events: u32, explained: &[&'static str]) -> Self {
        let records = vec![Record::default(); events as usize];
        Self {
            inner: Mutex::new(Inner { records, ..Inner::default() }),
            version: watch::Sender::new(0),
            begun: Instant::now(),
            explained: explained.to_vec(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
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

    /// A link for a guest came.
    pub(crate) fn guest_link(&self, message_id: &str, redelivered: bool, body: &[u8], sandbox: &Handle) {
        self.change(|inner| {
            inner.links += 1;
            if let Err(why) = guest_link(inner, message_id, redelivered, body, sandbox) {
                inner.unexpected(why);
            }
        });
    }

    /// The sandbox has an expert's message.
    pub(crate) fn host_message(&self, message: &Message, sandbox: &Handle) {
        self.change(|inner| {
            inner.messages += 1;
            if let Some((what, since)) = inner.recovering.take() {
                inner.recovered.entry(what).or_default().push(since.elapsed().as_secs_f64());
            }
            if let Err(why) = host_message(inner, message, sandbox) {
                inner.unexpected(why);
            }
        });
    }

    /// Instant Connect was asked for links.
    pub(crate) fn call(&self, call: &Call) {
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
            inner.calls_repeated += u64::from(record.calls > 1);
        });
    }

    /// A dead letter came from the queue called so.
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
                Kind::Good => self.explained.contains(&class),
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

    /// Something was done that may make a worker repeat itself.
    pub(crate) fn disturbed(&self, what: &'static str) {
        self.change(|inner| {
            inner.disturbed_ms.push(jiff::Timestamp::now().as_millisecond());
            *inner.faults.entry(what).or_default() += 1;
            let (since, finished) = (self.begun.elapsed().as_secs_f64(), inner.finished);
            eprintln!("{since:7.1} s, {finished:6} finished: {what}");
        });
    }

    /// The broker is ready again: the next served event ends its recovery.
    pub(crate) fn recovering(&self, what: &'static str) {
        self.change(|inner| inner.recovering = Some((what, Instant::now())));
    }

    /// Waits until that is over, or nothing is left to serve.
    pub(crate) async fn until_recovered(&self) {
        let events = u32::try_from(self.inner().records.len()).unwrap();
        self.until(|inner| inner.recovering.is_none() || inner.finished == events).await;
        self.change(|inner| inner.recovering = None);
    }

    /// Waits until so many events were confirmed by the broker.
    pub(crate) async fn until_confirmed(&self, count: u32) {
        self.until(|inner| inner.confirmed >= count).await;
    }

    /// Waits until so many events came to an end.
    pub(crate) async fn until_finished(&self, count: u32) {
        self.until(|inner| inner.finished >= count).await;
    }

    /// Waits until fewer than `window` events are on their way.
    pub(crate) async fn until_fewer_than(&self, window: u32) {
        self.until(|inner| inner.confirmed.saturating_sub(inner.finished) < window).await;
    }

    /// Waits; gives up when nothing at all has happened for [`PATIENCE`]. The verdict then says what is missing.
    async fn until(&self, mut condition: impl FnMut(&Inner) -> bool) {
        let mut version = self.version.subscribe();
        loop {
            version.borrow_and_update();
            if condition(&self.inner()) {
                return;
            }
            if timeout(PATIENCE, version.changed()).await.is_err() {
                let inner = self.inner();
                panic!(
                    "nothing has happened for {PATIENCE:?}: {} confirmed, {} finished, missing such as {:?}",
                    inner.confirmed,
                    inner.finished,
                    inner.lost()
                );
            }
        }
    }

    /// The verdict so far.
    pub(crate) fn report(&self) -> Report {
        let inner = self.inner();
        let all: Vec<f64> = inner.recovered.values().flatten().copied().collect();
        let mut recoveries: BTreeMap<&str, Value> =
            inner.recovered.iter().map(|(what, times)| (*what, summary(times))).collect();
        recoveries.insert("all", summary(&all));
        let lost = inner.lost();
        let json = json!({
            "sent": inner.confirmed, "published": inner.published,
            "done": inner.records.iter().filter(|record| record.finished && record.dead == 0).count(),
            "dead": inner.dead, "lost": lost.len(), "unexpected": inner.unexpected,
            "deadUnexplained": inner.dead_unexplained.len(), "deadRepeated": inner.dead_repeated,
            "guestLinks": inner.links, "guestLinksRedeliveredToUs": inner.redelivered,
            "repeatedSameId": inner.repeated_same_id, "repeatedOtherId": inner.repeated_other_id,
            "repeatedOtherLink": inner.other_link, "calls": inner.calls, "callsRepeated": inner.calls_repeated,
            "hostMessages": inner.messages,
            "hostMessagesRepeated": {
                "answerCut": inner.hosts_repeated_cut, "disturbed": inner.hosts_repeated_disturbed,
                "unexplained": inner.hosts_repeated,
            },
            "seconds": self.begun.elapsed().as_secs(), "faults": inner.faults, "recoverySeconds": recoveries,
        });
        let mut failures = Vec::new();
        if !lost.is_empty() {
            failures.push(format!("lost: {:?}", &lost[..lost.len().min(EXAMPLES)]));
        }
        if inner.unexpected > 0 {
            failures.push(format!("unexpected: {:#?}", inner.examples));
        }
        if !inner.dead_unexplained.is_empty() {
            failures.push(format!("dead for no reason: {:#?}", inner.dead_unexplained));
        }
        if inner.repeated_other_id > 0 {
            failures.push(format!("{} repeats with another message_id", inner.repeated_other_id));
        }
        let mut strict = Vec::new();
        if inner.other_link > 0 {
            strict.push(format!("{} repeats with another link", inner.other_link));
        }
        if inner.hosts_repeated + inner.hosts_repeated_disturbed > 0 {
            strict.push("host messages repeated although no answer was cut".to_owned());
        }
        Report { json, failures, strict }
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

    fn lost(&self) -> Vec<u32> {
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
    let link = sandbox.link(short).ok_or_else(|| format!("{}: nobody gave out {short}", start.id()))?;
    let right = start.kind() == Kind::Good
        && body["eventId"] == start.id()
        && body["channel"] == Start::channel(guest)
        && body["url"] == format!("{BASE_URL}{short}")
        && body.get("expert").is_none()
        && (link.role, &link.sub) == (Role::Guest, &start.session());
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

fn host_message(inner: &mut Inner, message: &Message, sandbox: &Handle) -> Result<(), String> {
    let email = message.to_person_email.as_deref().unwrap_or_default();
    let start = Start::of(email.strip_suffix("@example.com"), "expert-");
    let start = start.filter(|start| inner.sent(*start)).ok_or_else(|| format!("a message to {email}"))?;
    let url = message.attachments.first().and_then(|card| card["content"]["actions"][0]["url"].as_str());
    let short = url.and_then(|url| url.strip_prefix(BASE_URL)).unwrap_or_default();
    let link = sandbox.link(short).ok_or_else(|| format!("{email}: nobody gave out {short}"))?;
    if start.kind() != Kind::Good || (link.role, &link.sub) != (Role::Host, &start.session()) {
        return Err(format!("{email} was told a {:?} link of {}", link.role, link.sub));
    }
    let now = message.created.as_millisecond();
    let record = &mut inner.records[start.0 as usize];
    let (before, cut, url) = (record.host_since_ms, record.host_cut, hash(short));
    record.host.times += 1;
    record.host_since_ms = now;
    record.host_cut = message.fault.is_some();
    if record.host.times == 1 {
        record.host.url = url;
    } else {
        inner.other_link += u64::from(record.host.url != url);
        // A stalled or killed connection comes to light some time after what was done to it.
        let disturbed = inner.disturbed_ms.iter().any(|at| (before - 15_000..=now).contains(at));
        let count = match (cut, disturbed) {
            (true, _) => &mut inner.hosts_repeated_cut,
            (false, true) => &mut inner.hosts_repeated_disturbed,
            (false, false) => &mut inner.hosts_repeated,
        };
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

fn summary(times: &[f64]) -> Value {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    let shown = |time: Option<&f64>| time.map(|time| (time * 1000.0).round() / 1000.0);
    json!({"count": times.len(), "median": shown(times.get(times.len() / 2)), "max": shown(times.last())})
}

/// The verdict.
pub(crate) struct Report {
    pub(crate) json: Value,
    /// What must never be.
    failures: Vec<String>,
    /// What must not be once a ledger remembers what was done.
    strict: Vec<String>,
}

impl Report {
    /// As a table, for a person.
    pub(crate) fn table(&self) -> String {
        let mut table = String::new();
        for (name, value) in self.json.as_object().unwrap() {
            _ = writeln!(table, "{name:<28} {}", value.to_string().replace('"', "").replace(',', ", "));
        }
        table
    }

    /// Fails on what must not be.
    pub(crate) fn assert(&self, strict: bool) {
        let strict = if strict { self.strict.as_slice() } else { &[] };
        let failures: Vec<_> = self.failures.iter().chain(strict).cloned().collect();
        assert!(failures.is_empty(), "{}\n{}", failures.join("\n"), self.table());
    }
}
