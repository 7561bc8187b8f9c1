//! What must hold, looked at with every step. The rules on messages are in [`super::rules`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use lapin::types::ShortString;
use uuid::Uuid;

use super::{
    answers::SimulatedRequest,
    broker::{HOSTS, SESSIONS, Stored},
    events::{self, Event},
    network::{Learnt, SimulatedApi},
};
use crate::{
    broker::publisher::{Publication, PublishError},
    clock,
    instant_connect::request::LINKS_MAX,
    ledger::Entry,
    outcome::Class,
};

/// More of these in a minute, for each copy of a message and for one message, are a worker that spins.
const DELIVERIES_PER_MINUTE_MAX: usize = 90;
const CALLS_PER_MINUTE_MAX: usize = 60;

/// Longest that an event waits in its queue while only others have trouble.
const FAIR_WAIT_MAX: Duration = Duration::from_secs(8);
/// Longest that the ledger is out, and a worker tries again after that.
const LEDGER_OUT_MAX: Duration = Duration::from_secs(120);
/// Fewer events that fail may stop the taking after this long.
const FEW_AFTER: SignedDuration = SignedDuration::from_secs(120);
/// By then the worker has made use of what it learnt of a call.
const UNOBSERVED_MAX: SignedDuration = SignedDuration::from_secs(40);
/// Longest time from the end of a call to its outcome: the ledger is slow in between.
const SLOW_LEDGER: SignedDuration = SignedDuration::from_secs(5);
/// By then a Retry-After is in the ledger.
const KEPT_AFTER: SignedDuration = SignedDuration::from_secs(10);

/// The wait after a 429 that names none.
pub(super) const RATE_LIMIT_WAIT: Duration = Duration::from_secs(30);

/// What was seen, and the first rule that was broken.
pub(super) struct Checker {
    pub(super) violation: Option<String>,
    pub(super) rules: CheckedRules,
    pub(super) events: Vec<Event>,
    /// What happened to each message that a stage takes: by the event's body, or by the host link's `message_id`.
    pub(super) seen: BTreeMap<Uuid, SeenLinks>,
    /// Which link each link message carried, and which message carried each link.
    pub(super) urls: BTreeMap<Uuid, String>,
    pub(super) carried_by: BTreeMap<String, Uuid>,
    /// How often each link message was stored.
    pub(super) times: BTreeMap<Uuid, u32>,
    open: BTreeMap<u64, Open>,
    names: BTreeMap<Uuid, String>,
    /// Until when each API asked to be left alone, and when it did.
    asked_until: [Option<Timestamp>; 2],
    asked_at: [Option<Timestamp>; 2],
    /// The same, whether or not the worker that was asked wrote it down.
    ever_asked_until: [Option<Timestamp>; 2],
    /// Tries of messages that the ledger may have wrong: it failed.
    pub(super) tries_in_doubt: u32,
    /// When the present life of the worker learnt of it last.
    learnt_at: [Option<Timestamp>; 2],
    /// What the present life of the worker learnt of each API.
    learnt: [OfApi; 2],
    /// Different events whose calls fail before the worker takes no more.
    pub(super) breaker_failures: usize,
    /// Events that must not wait for the troubles of others.
    pub(super) fair: BTreeSet<String>,
    /// The ledger may not keep that.
    pub(super) ledger_fails: bool,
    /// Calls of each API by the present life of the worker since everything failed there, and how many may be.
    outage_calls: [usize; 2],
    pub(super) outage_calls_max: usize,
    /// How often the way to the broker was disturbed.
    pub(super) disturbances: u64,
    /// The longest wait that anybody asked for.
    pub(super) longest_wait: Duration,
    pub(super) counts: BTreeMap<&'static str, u64>,
}

/// The settings that rules speak of.
#[derive(Clone, Debug)]
pub(super) struct CheckedRules {
    pub(super) begin: Timestamp,
    pub(super) attempts: u32,
    pub(super) total: Duration,
    pub(super) lifetime: Duration,
    pub(super) deliveries_max: u32,
    pub(super) first_delay: Duration,
    pub(super) delivery_timeout: Duration,
}

/// What happened to one message that a stage takes.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is one thing that happened")]
pub(super) struct SeenLinks {
    pub(super) name: String,
    pub(super) queue: &'static str,
    /// What the stage calls for it: a session, an expert.
    pub(super) key: String,
    pub(super) event: usize,
    pub(super) room: bool,
    pub(super) deadline: Option<Timestamp>,
    /// How often it was put into its queue by others.
    pub(super) inputs: u32,
    /// How often an acknowledgement or a confirm may have been lost.
    pub(super) excuses: u32,
    pub(super) acks: u32,
    pub(super) open: u32,
    /// Its copies in hold queues and the dead queue, and how many of them were needed for an acknowledgement.
    pub(super) copies: u32,
    pub(super) spent: u32,
    pub(super) dead: Vec<Class>,
    /// When its last copy in a hold queue may be tried.
    pub(super) not_before: Option<Timestamp>,
    /// Calls that failed.
    pub(super) failures: u32,
    /// Those before which another event was served since the last that failed, or at the same time: an attempt may be counted.
    pub(super) own: u32,
    /// Likewise, those whose token was refused. The second in a row may be the event's own.
    pub(super) own_refusals: u32,
    /// A call failed in this life of the worker, and another event was served since.
    pub(super) failed: bool,
    pub(super) served_since: bool,
    /// The last failure, not settled yet, of which nothing proves that it is the event's own: whether its token was refused.
    pub(super) unclear: Option<bool>,
    /// The API asked for no call before then, with an answer that is not settled yet.
    pub(super) no_call_until: Option<Timestamp>,
    pub(super) refused: bool,
    /// The last look at what was sent to its expert was refused.
    pub(super) look_refused: bool,
    pub(super) unroutable: bool,
    /// Workers that died while they had it.
    pub(super) deaths: u32,
    /// Since its last delivery: what the worker knows to be published.
    pub(super) confirmed: BTreeSet<Uuid>,
    /// A delivery of this life was taken back, and what was done for it may still be published.
    pub(super) haunted: bool,
    pub(super) copy_confirmed: bool,
    /// The effects at the API, and whether the worker may not know of the last.
    pub(super) effects: u32,
    /// Until when the links are, with the first of which its devices were called; seconds since the epoch.
    pub(super) devices_until: Option<i64>,
    /// The worker knows of that call; the ledger has a note of it.
    pub(super) devices_known: bool,
    pub(super) noted: bool,
    pub(super) unknown_effect: bool,
    /// The ledger has its result: that all links are published, or that the expert has the message.
    pub(super) recorded: bool,
    /// How often the worker may not have recorded that all links are published: its ledger failed, or it died.
    pub(super) unrecorded: u32,
    pub(super) delivered_at: Vec<Timestamp>,
    /// How many copies there were of it, with each delivery.
    pub(super) alike: Vec<(Timestamp, usize)>,
    pub(super) called_at: Vec<Timestamp>,
}

/// What a life of the worker learnt of an API.
#[derive(Debug, Default)]
struct OfApi {
    /// Calls that failed, and for whom, since the last that was served or shortly before.
    failed: Vec<(Timestamp, String)>,
    /// When something else that stops the taking was met, unless something was served some time after.
    stops: Option<Timestamp>,
    /// Until when it asked for no call, as far as the worker is known to have taken it in.
    no_call_until: Option<Timestamp>,
    /// Who was answered with a Retry-After and not served since: whether others were since the last time, and how often in a row.
    limited: BTreeMap<String, (bool, u32)>,
}

struct Open {
    of: Uuid,
    copies_before: u32,
    disturbances_before: u64,
}

/// Notes a moment, and whether there were more than `max` in a minute.
fn too_often(moments: &mut Vec<Timestamp>, max: usize) -> bool {
    let now = clock::now();
    moments.retain(|at| now.duration_since(*at) < SignedDuration::from_secs(60));
    moments.push(now);
    moments.len() > max
}

impl SeenLinks {
    /// Most attempts that may be counted.
    pub(super) const fn countable(&self) -> u32 {
        self.own + self.own_refusals.saturating_sub(1)
    }

    /// A call for it failed.
    const fn fails(&mut self, refused: bool) {
        if self.failed && self.served_since {
            self.is_own(refused);
        } else if self.failed {
            self.unclear = Some(refused);
        }
        (self.failed, self.served_since) = (true, false);
    }

    /// A call for another one is served.
    const fn other_is_served(&mut self) {
        self.served_since = true;
        if let Some(refused) = self.unclear.take() {
            self.is_own(refused);
        }
    }

    const fn is_own(&mut self, refused: bool) {
        if refused { self.own_refusals += 1 } else { self.own += 1 }
    }
}

impl Checker {
    pub(super) fn new(events: Vec<Event>, rules: CheckedRules) -> Self {
        let mut checker = Self {
            violation: None,
            rules,
            events: Vec::new(),
            seen: BTreeMap::new(),
            urls: BTreeMap::new(),
            carried_by: BTreeMap::new(),
            times: BTreeMap::new(),
            open: BTreeMap::new(),
            names: BTreeMap::new(),
            asked_until: [None; 2],
            asked_at: [None; 2],
            ever_asked_until: [None; 2],
            tries_in_doubt: 0,
            learnt_at: [None; 2],
            learnt: <[OfApi; 2]>::default(),
            breaker_failures: 0,
            fair: BTreeSet::new(),
            ledger_fails: true,
            outage_calls: [0; 2],
            outage_calls_max: usize::MAX,
            disturbances: 0,
            longest_wait: RATE_LIMIT_WAIT,
            counts: BTreeMap::new(),
        };
        for event in events {
            checker.expect(event);
        }
        checker
    }

    /// One more event is going to be sent.
    pub(super) fn expect(&mut self, event: Event) {
        let key = events::fingerprint(&event.body);
        let seen = SeenLinks {
            name: event.session.clone(),
            queue: SESSIONS,
            key: event.session.clone(),
            event: self.events.len(),
            deadline: event.expires_at,
            ..SeenLinks::default()
        };
        self.names.insert(key, seen.name.clone());
        self.seen.insert(key, seen);
        self.events.push(event);
    }

    /// A consumer is to be delivered `prefetch` messages at once.
    pub(super) fn subscribed(&mut self, queue: &str, prefetch: u16) -> Result<(), String> {
        let which = usize::from(queue == HOSTS);
        let now = clock::now();
        let asked = self.asked_until[which].is_some_and(|until| now < until);
        // What was under way when that was learnt is over by then.
        let known = self.learnt_at[which].is_some_and(|at| now.duration_since(at) > KEPT_AFTER);
        if prefetch > 1 && asked && known {
            return Err(format!("{queue}: messages are taken, and its API asked for no call"));
        }
        Ok(())
    }

    /// A message is delivered that has waited in its queue.
    pub(super) fn waited(&self, queue: &str, body: &[u8], wait: Duration) -> Result<(), String> {
        let name = self.name(body);
        if queue == SESSIONS && wait > FAIR_WAIT_MAX && self.fair.contains(name) {
            return Err(format!("unfair: {name} waited {wait:?} in its queue, and only others have trouble"));
        }
        Ok(())
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// What a body is called in the journal.
    pub(super) fn name(&self, body: &[u8]) -> &str {
        self.names.get(&events::fingerprint(body)).map_or("something", String::as_str)
    }

    pub(super) fn set_name(&mut self, body: &[u8], name: String) {
        self.names.insert(events::fingerprint(body), name);
    }

    /// What is known of the message that a stage takes.
    pub(super) fn id_of(queue: &str, publication_id: Option<&str>, body: &[u8]) -> Uuid {
        let host = publication_id.filter(|_| queue == HOSTS).and_then(|id| Uuid::try_parse(id).ok());
        host.unwrap_or_else(|| events::fingerprint(body))
    }

    fn of_stored(&mut self, queue: &str, message: &Stored) -> (Uuid, Option<&mut SeenLinks>) {
        let message_id = message.properties.message_id().as_ref().map(ShortString::as_str);
        let id = Self::id_of(queue, message_id, &message.body);
        (id, self.seen.get_mut(&id))
    }

    pub(super) fn sent(&mut self, body: &[u8]) {
        self.count("events");
        if let Some(seen) = self.seen.get_mut(&events::fingerprint(body)) {
            seen.inputs += 1;
        }
    }

    pub(super) fn delivered(&mut self, tag: u64, queue: &str, message: &Stored) -> Result<(), String> {
        self.count("deliveries");
        let (of, seen) = self.of_stored(queue, message);
        let seen = seen.ok_or_else(|| format!("unexpected: {queue} delivers what nobody sent"))?;
        seen.open += 1;
        seen.confirmed.clear();
        seen.copy_confirmed = false;
        // Each worker that dies between a confirm and its ack leaves a copy more, and each is delivered.
        let alike = (seen.inputs + seen.copies).saturating_sub(seen.acks).max(1) as usize;
        let now = clock::now();
        seen.alike.retain(|(at, _)| now.duration_since(*at) < SignedDuration::from_secs(60));
        seen.alike.push((now, alike));
        let most = seen.alike.iter().map(|(_, alike)| *alike).max().unwrap_or(1);
        let spins = too_often(&mut seen.delivered_at, DELIVERIES_PER_MINUTE_MAX * most);
        let (copies_before, name) = (seen.copies, seen.name.clone());
        self.open.insert(tag, Open { of, copies_before, disturbances_before: self.disturbances });
        if spins { Err(format!("{name} is delivered too often")) } else { Ok(()) }
    }

    /// The broker took a delivery back: its connection is gone.
    /// What was done for it may go on (`lives`) beside its next delivery.
    pub(super) fn taken_back(&mut self, tag: u64, lives: bool) {
        self.count("redeliveries");
        if let Some(seen) = self.open.remove(&tag).and_then(|open| self.seen.get_mut(&open.of)) {
            seen.open -= 1;
            seen.excuses += 1;
            seen.haunted |= lives;
            seen.deaths += u32::from(!lives);
            // A worker that dies often is delivered to often; it does not spin.
            seen.delivered_at.pop();
        }
    }

    /// The worker gave a delivery back.
    pub(super) fn requeued(&mut self, tag: u64) -> Result<(), String> {
        self.count("given back");
        let Some(open) = self.open.remove(&tag) else { return Ok(()) };
        let done = self.confirmed_all(&open.of);
        let Some(seen) = self.seen.get_mut(&open.of) else { return Ok(()) };
        let alone = seen.open == 1;
        seen.open -= 1;
        seen.excuses += 1;
        if alone && (done || seen.copy_confirmed) {
            return Err(format!("{} was given back, and all was published and confirmed", seen.name));
        }
        Ok(())
    }

    /// Whether nothing disturbed the way to the broker since `of` was delivered.
    pub(super) fn undisturbed(&self, of: &Uuid) -> bool {
        let before = self.open.values().filter(|open| open.of == *of).map(|open| open.disturbances_before);
        before.min().is_some_and(|before| before == self.disturbances)
    }

    /// Whether the worker knows that all links of an event are published.
    pub(super) fn confirmed_all(&self, of: &Uuid) -> bool {
        let Some(seen) = self.seen.get(of) else { return false };
        let links = &self.events[seen.event].links;
        seen.queue == SESSIONS
            && !links.is_empty()
            && links.iter().all(|link| seen.confirmed.contains(&link.message_id))
    }

    /// Nothing may be acknowledged whose result is not safe.
    pub(super) fn acknowledged(&mut self, tag: u64, queue: &str, message: &Stored) -> Result<(), String> {
        self.count("acks");
        let Some(Open { of, copies_before, .. }) = self.open.remove(&tag) else { return Ok(()) };
        let done = self.is_done(&of);
        let (_, Some(seen)) = self.of_stored(queue, message) else { return Ok(()) };
        seen.open -= 1;
        seen.acks += 1;
        if seen.copies > seen.spent && seen.copies > copies_before {
            seen.spent += 1;
            return Ok(());
        }
        if done { Ok(()) } else { Err(format!("lost: {} is acknowledged without a result", seen.name)) }
    }

    /// Whether a message has had all its results.
    pub(super) fn is_done(&self, of: &Uuid) -> bool {
        let Some(seen) = self.seen.get(of) else { return false };
        let links = &self.events[seen.event].links;
        if seen.queue == HOSTS {
            return seen.effects > 0;
        }
        let own = |url: &String| self.carried_by.contains_key(url);
        !links.is_empty() && links.iter().all(|link| self.urls.get(&link.message_id).is_some_and(own))
    }

    pub(super) fn worker_ended(&mut self) {
        self.count("worker ends");
        for (until, at) in self.asked_until.iter_mut().zip(self.asked_at) {
            // What the worker just learnt it may not have written down.
            let kept = at.is_some_and(|at| clock::now().duration_since(at) > KEPT_AFTER);
            *until = until.filter(|_| kept && !self.ledger_fails);
        }
        self.outage_calls = [0; 2];
        self.learnt_at = [None; 2];
        self.learnt = Default::default();
        for seen in self.seen.values_mut() {
            seen.unknown_effect |= seen.effects > 0;
            seen.devices_known = false;
            seen.haunted = false;
            (seen.failed, seen.unclear, seen.no_call_until) = (false, None, None);
            seen.unrecorded += u32::from(!seen.recorded);
        }
    }

    fn by_ledger_key(&mut self, key: &str) -> impl Iterator<Item = &mut SeenLinks> {
        let host = key.strip_prefix("host:").and_then(|id| Uuid::try_parse(id).ok());
        let event = key.strip_prefix("link:").unwrap_or_default().to_owned();
        let events = &self.events;
        self.seen.iter_mut().filter_map(move |(id, seen)| {
            let is =
                if seen.queue == HOSTS { host == Some(*id) } else { events[seen.event].id.as_str() == event };
            is.then_some(seen)
        })
    }

    /// The ledger does not do what is asked of it, which stops the taking.
    pub(super) fn ledger_stops(&mut self) {
        self.learnt.iter_mut().for_each(|of_api| of_api.stops = Some(clock::now()));
    }

    /// The ledger did not take what it was to keep. A worker that lives tries again while it may keep the delivery.
    pub(super) fn ledger_failed(&mut self, key: &str) {
        self.count("ledger failures");
        self.tries_in_doubt += u32::from(key.starts_with("tried:"));
        if self.rules.delivery_timeout > LEDGER_OUT_MAX {
            return;
        }
        self.by_ledger_key(key).for_each(|seen| {
            seen.unknown_effect = true;
            seen.devices_known = false;
            seen.unrecorded += 1;
        });
    }

    /// The ledger has this for `key`, or nothing.
    pub(super) fn ledger_has(&mut self, key: &str, entry: Option<&Entry>) {
        let recorded = entry.is_some_and(Entry::is_recorded);
        // A note before the first call has no links.
        let without_links =
            |entry: &Entry| str::from_utf8(entry.bytes()).is_ok_and(|note| note.contains(r#""hosts":[]"#));
        let noted = !recorded && entry.is_some_and(|entry| !without_links(entry));
        self.by_ledger_key(key).for_each(|seen| {
            seen.recorded |= recorded;
            seen.noted = noted;
        });
    }

    fn by_key(&mut self, which: SimulatedApi, key: &str) -> Option<&mut SeenLinks> {
        let queue = if which == SimulatedApi::InstantConnect { SESSIONS } else { HOSTS };
        self.seen.values_mut().find(|seen| seen.queue == queue && seen.key == key)
    }

    /// Before anything is sent to an API.
    pub(super) fn called(
        &mut self,
        which: SimulatedApi,
        asked: &SimulatedRequest,
        out: bool,
    ) -> Result<(), String> {
        self.count("calls");
        let calls = &mut self.outage_calls[which as usize];
        *calls = if out { *calls + 1 } else { 0 };
        if *calls > self.outage_calls_max {
            return Err(format!("{which:?} is down, and called for the {calls}th time"));
        }
        let now = clock::now();
        if let Some(until) = self.asked_until[which as usize].filter(|until| now < *until) {
            return Err(format!("early: {which:?} asked to be left alone until {until}"));
        }
        let seen = self.by_key(which, asked.key());
        let seen = seen.ok_or_else(|| format!("unexpected: a call for {}", asked.key()))?;
        // To look at what was sent is to send nothing.
        let sends = !matches!(asked, SimulatedRequest::List { .. });
        if sends && seen.deadline.is_some_and(|deadline| now >= deadline) {
            return Err(format!("late: a call for {}, whose session is over", seen.name));
        }
        // Of one that came twice, or may have, another copy may be meant.
        let one = seen.inputs == 1 && seen.excuses == 0;
        if one && seen.not_before.is_some_and(|at| now < at) {
            return Err(format!("early: a call for {}, which was held for longer", seen.name));
        }
        if too_often(&mut seen.called_at, CALLS_PER_MINUTE_MAX) {
            return Err(format!("{} is called for too often", seen.name));
        }
        let (name, number) = (seen.name.clone(), seen.event);
        let event = &self.events[number];
        if let SimulatedRequest::Links { devices, until, .. } = asked {
            if event.links.is_empty() {
                return Err(format!("unexpected: links for {name}, which calls for none"));
            }
            if !devices.is_empty() && *devices != event.devices {
                return Err(format!("{name} has other devices called than it names"));
            }
            let said = event.expires_at.map(Timestamp::as_second);
            if *until <= now.as_second() || said.is_some_and(|said| said != *until) {
                return Err(format!("{name} gets links that open until another time"));
            }
        }
        Ok(())
    }

    /// What the worker learns of a call.
    pub(super) fn call_ended(&mut self, which: SimulatedApi, asked: &SimulatedRequest, learnt: Learnt) {
        let own = self.learn(which, asked.key(), learnt);
        if let Learnt::Wait(until) = learnt {
            let unnamed = || clock::now().checked_add(SignedDuration::try_from(RATE_LIMIT_WAIT).ok()?).ok();
            let ever = &mut self.ever_asked_until[which as usize];
            *ever = (*ever).max(until.or_else(unnamed));
        }
        if let (Learnt::Wait(Some(until)), false) = (learnt, own) {
            let asked_until = &mut self.asked_until[which as usize];
            if *asked_until < Some(until) {
                *asked_until = Some(until);
                self.learnt_at[which as usize] = Some(clock::now());
                self.asked_at[which as usize] = Some(clock::now());
            }
            let wait = Duration::try_from(until.duration_since(clock::now())).unwrap_or_default();
            self.longest_wait = self.longest_wait.max(wait);
        }
        self.count(match learnt {
            Learnt::Worked => "good answers",
            Learnt::Failed => "failed calls",
            Learnt::CutOff => "calls cut off",
            Learnt::Later => "calls for later",
            Learnt::Wait(_) => "rate limits",
            Learnt::Token => "refused tokens",
            Learnt::Refused => "refused requests",
        });
        let looks = matches!(asked, SimulatedRequest::List { .. });
        if looks && learnt == Learnt::Failed {
            // The beginning of its answer may have been enough.
            self.others_are_served(which, asked.key());
        }
        let Some(seen) = self.by_key(which, asked.key()) else { return };
        if let (Learnt::Wait(until), false) = (learnt, own) {
            seen.no_call_until = until;
        }
        seen.unknown_effect = learnt != Learnt::Worked;
        let called = matches!(asked, SimulatedRequest::Links { devices, .. } if !devices.is_empty());
        seen.devices_known |= called && learnt == Learnt::Worked;
        if looks {
            seen.look_refused = learnt == Learnt::Refused;
        }
        match learnt {
            Learnt::Failed => {
                seen.failures += 1;
                seen.fails(false);
            }
            Learnt::Token => seen.fails(true),
            Learnt::Later | Learnt::Wait(_) => (seen.failed, seen.served_since) = (true, false),
            Learnt::Refused if !looks => seen.refused = true,
            _ => {}
        }
        let (event, failed) = (seen.event, seen.failed && which == SimulatedApi::InstantConnect);
        let id = self.events[event].id.clone();
        // The worker takes events of one id for one.
        let alike =
            self.seen.values_mut().filter(|seen| seen.queue == SESSIONS && self.events[seen.event].id == id);
        alike.for_each(|seen| seen.failed |= failed);
    }

    /// Takes in what the worker learns of a call; whether it is a Retry-After that may be for this call alone.
    fn learn(&mut self, which: SimulatedApi, key: &str, learnt: Learnt) -> bool {
        let (now, of_api) = (clock::now(), &mut self.learnt[which as usize]);
        match learnt {
            Learnt::Worked | Learnt::Refused => {
                of_api.failed.retain(|(at, _)| now.duration_since(*at) < UNOBSERVED_MAX);
                of_api.stops = of_api.stops.filter(|at| now.duration_since(*at) < UNOBSERVED_MAX);
                of_api.limited.remove(key);
                of_api.limited.values_mut().for_each(|(served, _)| *served = true);
                self.others_are_served(which, key);
            }
            Learnt::Failed | Learnt::Later => of_api.failed.push((now, key.to_owned())),
            Learnt::Token => of_api.stops = Some(now),
            Learnt::Wait(_) => {
                of_api.stops = Some(now);
                if let Some((served, times)) = of_api.limited.get_mut(key) {
                    *times += u32::from(std::mem::take(served));
                    return *times >= 2;
                }
                of_api.limited.values_mut().for_each(|(_, times)| *times = 0);
                of_api.limited.insert(key.to_owned(), (false, 0));
            }
            Learnt::CutOff => {}
        }
        false
    }

    /// The worker decided what becomes of the only delivery of a message.
    pub(super) fn decided(&mut self, id: &Uuid) {
        let Some(seen) = self.seen.get_mut(id).filter(|seen| seen.open <= 1) else { return };
        seen.unclear = None;
        let of_api = &mut self.learnt[usize::from(seen.queue == HOSTS)];
        of_api.no_call_until = of_api.no_call_until.max(seen.no_call_until.take());
    }

    fn others_are_served(&mut self, which: SimulatedApi, key: &str) {
        let queue = if which == SimulatedApi::InstantConnect { SESSIONS } else { HOSTS };
        let others = self.seen.values_mut().filter(|seen| seen.queue == queue && seen.key != key);
        others.for_each(SeenLinks::other_is_served);
    }

    /// The worker takes no more, as an API fails.
    pub(super) fn breaker_opened(&mut self, which: SimulatedApi) -> Result<(), String> {
        self.count("breakers opened");
        let of_api = &self.learnt[which as usize];
        // A call that was refused during the wait may end its claim in a slow ledger before the breaker learns of it.
        let asked = self.ever_asked_until[which as usize]
            .is_some_and(|until| clock::now().duration_since(until) < SLOW_LEDGER);
        let stops = of_api.stops.is_some() || asked;
        let events: BTreeSet<_> = of_api.failed.iter().map(|(_, key)| key).collect();
        let few = of_api.failed.len() >= self.breaker_failures
            && of_api.failed.first().is_some_and(|(at, _)| clock::now().duration_since(*at) >= FEW_AFTER);
        if stops || few || events.len() >= self.breaker_failures {
            return Ok(());
        }
        Err(format!("{which:?}: nothing is taken after failures of {} events", events.len()))
    }

    /// The worker says that it takes messages again.
    pub(super) fn breaker_closed(&self, which: SimulatedApi) -> Result<(), String> {
        if self.learnt[which as usize].no_call_until.is_some_and(|until| clock::now() < until) {
            return Err(format!("{which:?}: messages are said to be taken, and it asked for no call"));
        }
        Ok(())
    }

    /// The links of a session are made, its devices called.
    pub(super) fn links_made(&mut self, session: &str, devices: &[String], until: i64) -> Result<(), String> {
        self.count("links made");
        let Some(seen) = self.seen.values_mut().find(|seen| seen.queue == SESSIONS && seen.key == session)
        else {
            return Ok(());
        };
        seen.effects += 1;
        seen.unknown_effect = true;
        let all_noted = seen.noted && self.events[seen.event].links.len() <= LINKS_MAX;
        if seen.recorded || all_noted {
            return Err(format!("repeated: {session} gets links again, and the ledger has them"));
        }
        if devices.is_empty() {
            return Ok(());
        }
        // Those of links that have ended are called again, with new links.
        let last = seen.devices_until.replace(until).filter(|last| *last > clock::now().as_second());
        if last.is_some() && (seen.devices_known || seen.noted) {
            return Err(format!("repeated: {session} has its devices called again"));
        }
        Ok(())
    }

    /// An expert gets a message.
    pub(super) fn message_sent(&mut self, to: &str, text: &str) -> Result<(), String> {
        self.count("messages to experts");
        let ids: Vec<Uuid> = (self.seen.iter())
            .filter(|(_, seen)| seen.queue == HOSTS && seen.key == to)
            .map(|(id, _)| *id)
            .collect();
        let [id] = ids[..] else { return Err(format!("unexpected: a message to {to}")) };
        let url = self.urls.get(&id).cloned().unwrap_or_default();
        let Some(seen) = self.seen.get_mut(&id) else { return Ok(()) };
        seen.effects += 1;
        let known = !std::mem::replace(&mut seen.unknown_effect, true);
        if url.is_empty() || !text.contains(&url) {
            return Err(format!("{to} gets a message with another link"));
        }
        if seen.effects > 1 && (seen.recorded || known || !(seen.room || seen.look_refused)) {
            return Err(format!("repeated: {to} gets a second message"));
        }
        Ok(())
    }

    /// What the worker learns of a publish.
    pub(super) fn answered(&mut self, publication: &Publication, result: Result<(), PublishError>) {
        let message_id = publication.properties.message_id().as_ref().map(ShortString::as_str);
        let link = message_id.and_then(|id| Uuid::try_parse(id).ok());
        let copy = publication.exchange.is_empty();
        let queue = if publication.routing_key.starts_with(HOSTS) { HOSTS } else { SESSIONS };
        let copied = Self::id_of(queue, message_id, &publication.body);
        let name = self.name(&publication.body).to_owned();
        for (id, seen) in &mut self.seen {
            let event = &self.events[seen.event];
            let its = if copy {
                *id == copied
            } else {
                seen.queue == SESSIONS && name.ends_with(&format!(" of {}", event.session))
            };
            match result {
                _ if !its => {}
                Err(_) => {
                    seen.excuses += 1;
                    self.disturbances += 1;
                }
                // Of two deliveries it may be either's, also where the connection of one is gone.
                Ok(()) if seen.open != 1 || seen.haunted => {}
                Ok(()) if copy => seen.copy_confirmed = true,
                Ok(()) => seen.confirmed.extend(link),
            }
        }
    }

    pub(super) fn unroutable(&mut self, publication: &Publication) {
        self.count("returns");
        let message_id = publication.properties.message_id().as_ref().map(ShortString::as_str);
        let link = message_id.and_then(|id| Uuid::try_parse(id).ok());
        for seen in self.seen.values_mut() {
            let event = &self.events[seen.event];
            seen.unroutable |= event.links.iter().any(|wanted| Some(wanted.message_id) == link);
        }
    }

    /// At the end, when nothing is left to be done.
    pub(super) fn end(&mut self) -> Result<(), String> {
        for (id, seen) in &self.seen {
            if seen.inputs > 0 && !self.is_done(id) && seen.dead.is_empty() {
                return Err(format!("lost: {} has neither its result nor a dead letter", seen.name));
            }
        }
        Ok(())
    }
}
