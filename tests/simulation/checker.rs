//! The rules that are checked with every step. The rules on messages are in [`super::rules`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use instant_connect_worker::{
    broker::publisher::{Publication, PublishError},
    clock::Clock,
    instant_connect::request::LINKS_MAX,
    ledger::entry::{Entry, EntryState},
    outcome::Class,
};
use jiff::{SignedDuration, Timestamp};
use lapin::types::ShortString;
use uuid::Uuid;

use super::{
    answers::SimulatedRequest,
    broker::{HOSTS, SESSIONS, Stored},
    events::{self, Event},
    network::{CallResult, SimulatedApi},
};

/// Limits per minute, for each copy of a message and for one message; a worker that exceeds a limit loops.
const DELIVERIES_PER_MINUTE_MAX: usize = 90;
const CALLS_PER_MINUTE_MAX: usize = 60;

/// Longest wait of an event in its queue while only other events fail.
const FAIR_WAIT_MAX: Duration = Duration::from_secs(8);
/// Longest outage of the ledger after which the worker still retries a write.
const LEDGER_OUT_MAX: Duration = Duration::from_secs(120);
/// After this time, failures of fewer events may open the breaker.
const FEW_AFTER: SignedDuration = SignedDuration::from_secs(120);
/// Time after which the worker has used the result of a call.
const UNOBSERVED_MAX: SignedDuration = SignedDuration::from_secs(40);
/// Time after which a Retry-After is in the ledger.
const KEPT_AFTER: SignedDuration = SignedDuration::from_secs(10);
/// A wait that is longer by this much is not written again.
const KEPT_TO: SignedDuration = SignedDuration::from_millis(500);

/// Delay after a 429 without Retry-After.
pub(crate) const RATE_LIMIT_WAIT: Duration = Duration::from_secs(30);

/// The observed steps, and the first broken rule.
pub(crate) struct Checker {
    pub(crate) violation: Option<String>,
    pub(crate) rules: CheckedRules,
    pub(crate) events: Vec<Event>,
    /// State of each message that a stage consumes, by the event's body or the host link's `message_id`.
    pub(crate) seen: BTreeMap<Uuid, SeenLinks>,
    /// The link of each link message, and the message of each link.
    pub(crate) urls: BTreeMap<Uuid, String>,
    pub(crate) carried_by: BTreeMap<String, Uuid>,
    /// Number of times that each link message was stored.
    pub(crate) times: BTreeMap<Uuid, u32>,
    open: BTreeMap<u64, Open>,
    names: BTreeMap<Uuid, String>,
    /// The end of each API's rate limit, and the time at which the API sent it.
    rate_limited_until: [Option<Timestamp>; 2],
    rate_limited_at: [Option<Timestamp>; 2],
    /// The same, including rate limits that a stopped worker may not have recorded.
    ever_rate_limited_until: [Option<Timestamp>; 2],
    /// Delivery counts that may be wrong because the ledger failed.
    pub(crate) tries_in_doubt: u32,
    /// The time at which the current worker last received a rate limit.
    rate_limit_learnt_at: [Option<Timestamp>; 2],
    /// The state of each API as the current worker knows it.
    learnt: [ApiState; 2],
    /// Number of different events whose calls must fail before the breaker opens.
    pub(crate) breaker_failures: usize,
    /// Events that must not be delayed by the failures of others.
    pub(crate) fair: BTreeSet<String>,
    /// True if ledger writes may fail in this history.
    pub(crate) ledger_fails: bool,
    /// Calls of each API by the current worker since the total outage began, and their limit.
    outage_calls: [usize; 2],
    pub(crate) outage_calls_max: usize,
    /// True while the worker finishes its work before it stops.
    pub(crate) draining: bool,
    /// Number of disturbances of the connection to the broker.
    pub(crate) disturbances: u64,
    /// The longest delay that an API imposed.
    pub(crate) longest_wait: Duration,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

/// The settings that the rules use.
#[derive(Clone, Debug)]
pub(crate) struct CheckedRules {
    pub(crate) clock: Clock,
    pub(crate) begin: Timestamp,
    pub(crate) attempts: u32,
    pub(crate) total: Duration,
    pub(crate) lifetime: Duration,
    pub(crate) deliveries_max: u32,
    pub(crate) first_delay: Duration,
    pub(crate) delivery_timeout: Duration,
}

/// State of one message that a stage consumes.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each field is one observation")]
pub(crate) struct SeenLinks {
    pub(crate) name: String,
    pub(crate) queue: &'static str,
    /// The subject of the stage's calls: a session or an expert.
    pub(crate) key: String,
    pub(crate) event: usize,
    pub(crate) room: bool,
    pub(crate) deadline: Option<Timestamp>,
    /// Number of times that others stored the message in its queue.
    pub(crate) inputs: u32,
    /// Number of acks or confirms that may have been lost.
    pub(crate) excuses: u32,
    pub(crate) acks: u32,
    pub(crate) open: u32,
    /// Copies in delay queues and the dead queue, and how many of them an ack has used.
    pub(crate) copies: u32,
    pub(crate) spent: u32,
    pub(crate) dead: Vec<Class>,
    /// The time before which the last copy in a delay queue must not be tried.
    pub(crate) not_before: Option<Timestamp>,
    /// Calls that failed.
    pub(crate) failures: u32,
    /// Failures between which another event was processed, so that an attempt may be counted.
    pub(crate) own_failures: u32,
    /// The same for refused tokens. The second in a row may be caused by the event itself.
    pub(crate) own_refusals: u32,
    /// A call failed in this life of the worker; another event was processed after it.
    pub(crate) failed: bool,
    pub(crate) processed_since: bool,
    /// The last unsettled failure that may be the API's: true if the token was refused.
    pub(crate) unclear: Option<bool>,
    /// The end of a rate limit from a response that is not settled yet.
    pub(crate) no_call_until: Option<Timestamp>,
    pub(crate) refused: bool,
    /// The last request for the messages sent to its expert was refused.
    pub(crate) list_refused: bool,
    pub(crate) unroutable: bool,
    /// Workers that died while they processed the message.
    pub(crate) deaths: u32,
    /// The link messages whose confirm the worker received since the last delivery.
    pub(crate) confirmed: BTreeSet<Uuid>,
    /// A delivery of this life was taken back, and its work may still publish.
    pub(crate) may_publish_late: bool,
    pub(crate) copy_confirmed: bool,
    /// Effects at the API, and true if the worker may not know of the last one.
    pub(crate) effects: u32,
    /// The end of the first links for which devices were called, in seconds since the epoch.
    pub(crate) devices_until: Option<i64>,
    /// The worker knows of that call; the ledger has a note of the call.
    pub(crate) devices_known: bool,
    pub(crate) noted: bool,
    pub(crate) unknown_effect: bool,
    /// The ledger has the result: all links are published, or the expert has the message.
    pub(crate) recorded: bool,
    /// Number of times that the result may not be recorded because the ledger failed or the worker died.
    pub(crate) unrecorded: u32,
    pub(crate) delivered_at: Vec<Timestamp>,
    /// The number of copies at each delivery.
    pub(crate) alike: Vec<(Timestamp, usize)>,
    pub(crate) called_at: Vec<Timestamp>,
}

/// The state of an API as one life of the worker knows it.
#[derive(Debug, Default)]
struct ApiState {
    /// Failed calls and their subjects, since shortly before the last success.
    failed: Vec<(Timestamp, String)>,
    /// Subjects of the failed calls before a success, with its time. The worker may learn of it late.
    forgotten: Vec<(Timestamp, String)>,
    /// The time of a success after failures that lasted long enough for few events to open the breaker. The worker may learn of it
    /// late.
    few: Option<Timestamp>,
    /// The time of another reason to open the breaker, unless a later call succeeded.
    stops: Option<Timestamp>,
    /// The end of the rate limit that the worker is known to have received.
    no_call_until: Option<Timestamp>,
    /// Subjects that were rate limited and not processed since: if others were processed, and the count in a row.
    limited: BTreeMap<String, (bool, u32)>,
}

struct Open {
    of: Uuid,
    copies_before: u32,
    disturbances_before: u64,
}

/// Records that something happened `now`. Returns true if `max` per minute is exceeded.
fn too_often(moments: &mut Vec<Timestamp>, now: Timestamp, max: usize) -> bool {
    moments.retain(|at| now.duration_since(*at) < SignedDuration::from_secs(60));
    moments.push(now);
    moments.len() > max
}

impl SeenLinks {
    /// The highest number of attempts that may be counted.
    pub(crate) const fn attempts_max(&self) -> u32 {
        self.own_failures + self.own_refusals.saturating_sub(1)
    }

    /// Records a failed call for the message.
    const fn record_failure(&mut self, refused: bool) {
        if self.failed && self.processed_since {
            self.count_own_failure(refused);
        } else if self.failed {
            self.unclear = Some(refused);
        }
        (self.failed, self.processed_since) = (true, false);
    }

    /// Records a processed call for another message.
    const fn record_other_processed(&mut self) {
        self.processed_since = true;
        if let Some(refused) = self.unclear.take() {
            self.count_own_failure(refused);
        }
    }

    const fn count_own_failure(&mut self, refused: bool) {
        if refused { self.own_refusals += 1 } else { self.own_failures += 1 }
    }
}

impl Checker {
    pub(crate) fn new(events: Vec<Event>, rules: CheckedRules) -> Self {
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
            rate_limited_until: [None; 2],
            rate_limited_at: [None; 2],
            ever_rate_limited_until: [None; 2],
            tries_in_doubt: 0,
            rate_limit_learnt_at: [None; 2],
            learnt: <[ApiState; 2]>::default(),
            breaker_failures: 0,
            fair: BTreeSet::new(),
            ledger_fails: true,
            outage_calls: [0; 2],
            outage_calls_max: usize::MAX,
            draining: false,
            disturbances: 0,
            longest_wait: RATE_LIMIT_WAIT,
            counts: BTreeMap::new(),
        };
        for event in events {
            checker.expect(event);
        }
        checker
    }

    /// Registers an event that is about to be sent.
    pub(crate) fn expect(&mut self, event: Event) {
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

    /// Checks a new subscription with `prefetch`.
    pub(crate) fn subscribed(&mut self, queue: &str, prefetch: u16) -> Result<(), String> {
        let which = usize::from(queue == HOSTS);
        let now = self.rules.clock.now();
        let asked = self.rate_limited_until[which].is_some_and(|until| now < until);
        // Work that was in progress when the rate limit arrived is done by then.
        let known = self.rate_limit_learnt_at[which].is_some_and(|at| now.duration_since(at) > KEPT_AFTER);
        if prefetch > 1 && asked && known {
            return Err(format!("{queue}: subscribed with a prefetch above 1 while its API is rate limited"));
        }
        Ok(())
    }

    /// Checks how long a delivered message waited in its queue.
    pub(crate) fn waited(&self, queue: &str, body: &[u8], wait: Duration) -> Result<(), String> {
        let name = self.name(body);
        if queue == SESSIONS && wait > FAIR_WAIT_MAX && self.fair.contains(name) {
            return Err(format!("unfair: {name} waited {wait:?} in its queue while only other events fail"));
        }
        Ok(())
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// The name of a body in the journal.
    pub(crate) fn name(&self, body: &[u8]) -> &str {
        self.names.get(&events::fingerprint(body)).map_or("something", String::as_str)
    }

    pub(crate) fn set_name(&mut self, body: &[u8], name: String) {
        self.names.insert(events::fingerprint(body), name);
    }

    /// The key of the message in [`Checker::seen`].
    pub(crate) fn id_of(queue: &str, publication_id: Option<&str>, body: &[u8]) -> Uuid {
        let host = publication_id.filter(|_| queue == HOSTS).and_then(|id| Uuid::try_parse(id).ok());
        host.unwrap_or_else(|| events::fingerprint(body))
    }

    fn of_stored(&mut self, queue: &str, message: &Stored) -> (Uuid, Option<&mut SeenLinks>) {
        let message_id = message.properties.message_id().as_ref().map(ShortString::as_str);
        let id = Self::id_of(queue, message_id, &message.body);
        (id, self.seen.get_mut(&id))
    }

    pub(crate) fn sent(&mut self, body: &[u8]) {
        self.count("events");
        if let Some(seen) = self.seen.get_mut(&events::fingerprint(body)) {
            seen.inputs += 1;
        }
    }

    pub(crate) fn delivered(&mut self, tag: u64, queue: &str, message: &Stored) -> Result<(), String> {
        let now = self.rules.clock.now();
        self.count("deliveries");
        let (of, seen) = self.of_stored(queue, message);
        let seen =
            seen.ok_or_else(|| format!("unexpected: {queue} delivered a message that was never sent"))?;
        seen.open += 1;
        seen.confirmed.clear();
        seen.copy_confirmed = false;
        // Each worker that dies between a confirm and its ack leaves one more copy, and each copy is delivered.
        let alike = (seen.inputs + seen.copies).saturating_sub(seen.acks).max(1) as usize;
        seen.alike.retain(|(at, _)| now.duration_since(*at) < SignedDuration::from_secs(60));
        seen.alike.push((now, alike));
        let most = seen.alike.iter().map(|(_, alike)| *alike).max().unwrap_or(1);
        let spins = too_often(&mut seen.delivered_at, now, DELIVERIES_PER_MINUTE_MAX * most);
        let (copies_before, name) = (seen.copies, seen.name.clone());
        self.open.insert(tag, Open { of, copies_before, disturbances_before: self.disturbances });
        if spins { Err(format!("{name} is delivered too often")) } else { Ok(()) }
    }

    /// Records that the broker took a delivery back because its connection is gone. If the worker `lives`, its work
    /// may continue beside the next delivery.
    pub(crate) fn taken_back(&mut self, tag: u64, lives: bool) {
        self.count("redeliveries");
        if let Some(seen) = self.open.remove(&tag).and_then(|open| self.seen.get_mut(&open.of)) {
            seen.open -= 1;
            seen.excuses += 1;
            seen.may_publish_late |= lives;
            seen.deaths += u32::from(!lives);
            // Many deliveries to workers that die are no loop.
            seen.delivered_at.pop();
        }
    }

    /// Records that the worker requeued a delivery.
    pub(crate) fn requeued(&mut self, tag: u64) -> Result<(), String> {
        self.count("requeues");
        let Some(open) = self.open.remove(&tag) else { return Ok(()) };
        let done = self.confirmed_all(&open.of);
        let Some(seen) = self.seen.get_mut(&open.of) else { return Ok(()) };
        let alone = seen.open == 1;
        seen.open -= 1;
        seen.excuses += 1;
        if alone && (done || seen.copy_confirmed) {
            return Err(format!(
                "{} was requeued after all its messages were published and confirmed",
                seen.name
            ));
        }
        Ok(())
    }

    /// Returns true if the broker connection was not disturbed since `of` was delivered.
    pub(crate) fn undisturbed(&self, of: &Uuid) -> bool {
        let before = self.open.values().filter(|open| open.of == *of).map(|open| open.disturbances_before);
        before.min().is_some_and(|before| before == self.disturbances)
    }

    /// Returns true if the worker knows that all links of an event are published.
    pub(crate) fn confirmed_all(&self, of: &Uuid) -> bool {
        let Some(seen) = self.seen.get(of) else { return false };
        let links = &self.events[seen.event].links;
        seen.queue == SESSIONS
            && !links.is_empty()
            && links.iter().all(|link| seen.confirmed.contains(&link.message_id))
    }

    /// Checks that an acknowledged message has a safe result.
    pub(crate) fn acknowledged(&mut self, tag: u64, queue: &str, message: &Stored) -> Result<(), String> {
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
        if done { Ok(()) } else { Err(format!("lost: {} was acknowledged without a result", seen.name)) }
    }

    /// Returns true if a message has all its results.
    pub(crate) fn is_done(&self, of: &Uuid) -> bool {
        let Some(seen) = self.seen.get(of) else { return false };
        let links = &self.events[seen.event].links;
        if seen.queue == HOSTS {
            return seen.effects > 0;
        }
        let own = |url: &String| self.carried_by.contains_key(url);
        !links.is_empty() && links.iter().all(|link| self.urls.get(&link.message_id).is_some_and(own))
    }

    /// Checks a connection that the worker closes with the deliveries `left` unsettled.
    pub(crate) fn closed(&self, left: &[u64]) -> Result<(), String> {
        if self.draining && !left.is_empty() {
            return Err(format!("the worker stops with {} deliveries unsettled", left.len()));
        }
        Ok(())
    }

    pub(crate) fn worker_ended(&mut self) {
        self.draining = false;
        self.count("worker ends");
        for (until, at) in self.rate_limited_until.iter_mut().zip(self.rate_limited_at) {
            // The worker may not have recorded a rate limit that it received just now.
            let kept = at.is_some_and(|at| self.rules.clock.now().duration_since(at) > KEPT_AFTER);
            *until = until.filter(|_| kept && !self.ledger_fails).map(|until| until - KEPT_TO);
        }
        self.outage_calls = [0; 2];
        self.rate_limit_learnt_at = [None; 2];
        self.learnt = Default::default();
        for seen in self.seen.values_mut() {
            seen.unknown_effect |= seen.effects > 0;
            seen.devices_known = false;
            // The worker was still processing a delivery whose connection had broken.
            seen.deaths += u32::from(seen.may_publish_late && seen.open == 0);
            seen.may_publish_late = false;
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

    /// Records a ledger failure, which opens the breakers.
    pub(crate) fn ledger_stops(&mut self) {
        self.learnt.iter_mut().for_each(|of_api| of_api.stops = Some(self.rules.clock.now()));
    }

    /// Records a failed ledger write. A running worker retries the write while it may hold the delivery.
    pub(crate) fn ledger_failed(&mut self, key: &str) {
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

    /// Records the ledger entry for `key`, or its absence.
    pub(crate) fn ledger_has(&mut self, key: &str, entry: Option<&Entry>) {
        let recorded = entry.is_some_and(|entry| entry.state == EntryState::Recorded);
        // A note before the first call contains no links.
        let without_links =
            |entry: &Entry| str::from_utf8(&entry.bytes).is_ok_and(|note| note.contains(r#""hosts":[]"#));
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

    /// Checks a call before the API receives it.
    pub(crate) fn called(
        &mut self,
        which: SimulatedApi,
        asked: &SimulatedRequest,
        out: bool,
    ) -> Result<(), String> {
        self.count("calls");
        let calls = &mut self.outage_calls[which as usize];
        *calls = if out { *calls + 1 } else { 0 };
        if *calls > self.outage_calls_max {
            return Err(format!("{which:?} is down, but received {calls} calls"));
        }
        let now = self.rules.clock.now();
        if let Some(until) = self.rate_limited_until[which as usize].filter(|until| now < *until) {
            return Err(format!("early: a call to {which:?}, which is rate limited until {until}"));
        }
        let seen = self.by_key(which, asked.key());
        let seen = seen.ok_or_else(|| format!("unexpected: a call for {}", asked.key()))?;
        // Listing the sent messages sends nothing.
        let sends = !matches!(asked, SimulatedRequest::List { .. });
        if sends && seen.deadline.is_some_and(|deadline| now >= deadline) {
            return Err(format!("late: a call for {}, whose session has ended", seen.name));
        }
        // If the message may have several copies, the call may belong to another copy.
        let one = seen.inputs == 1 && seen.excuses == 0;
        if one && seen.not_before.is_some_and(|at| now < at) {
            return Err(format!("early: a call for {}, which is not due yet", seen.name));
        }
        if too_often(&mut seen.called_at, now, CALLS_PER_MINUTE_MAX) {
            return Err(format!("too many calls for {}", seen.name));
        }
        let (name, number) = (seen.name.clone(), seen.event);
        let event = &self.events[number];
        if let SimulatedRequest::Links { devices, until, .. } = asked {
            if event.links.is_empty() {
                return Err(format!("unexpected: links for {name}, which must not get any"));
            }
            if !devices.is_empty() && *devices != event.devices {
                return Err(format!("the called devices differ from those of {name}"));
            }
            let said = event.expires_at.map(Timestamp::as_second);
            if *until <= now.as_second() || said.is_some_and(|said| said != *until) {
                return Err(format!("the links of {name} have the wrong expiry time"));
            }
        }
        Ok(())
    }

    /// Records the result of a call as the worker received it.
    pub(crate) fn call_ended(&mut self, which: SimulatedApi, asked: &SimulatedRequest, learnt: CallResult) {
        let looks = matches!(asked, SimulatedRequest::List { .. });
        let this_call_only = self.learn(which, asked.key(), looks, learnt);
        if let CallResult::Wait(until) = learnt {
            let unnamed =
                || self.rules.clock.now().checked_add(SignedDuration::try_from(RATE_LIMIT_WAIT).ok()?).ok();
            let ever = &mut self.ever_rate_limited_until[which as usize];
            *ever = (*ever).max(until.or_else(unnamed));
        }
        if let (CallResult::Wait(Some(until)), false) = (learnt, this_call_only) {
            let rate_limited_until = &mut self.rate_limited_until[which as usize];
            if *rate_limited_until < Some(until) {
                *rate_limited_until = Some(until);
                self.rate_limit_learnt_at[which as usize] = Some(self.rules.clock.now());
                self.rate_limited_at[which as usize] = Some(self.rules.clock.now());
            }
            let wait = Duration::try_from(until.duration_since(self.rules.clock.now())).unwrap_or_default();
            self.longest_wait = self.longest_wait.max(wait);
        }
        self.count(match learnt {
            CallResult::Worked => "successful calls",
            CallResult::Failed => "failed calls",
            CallResult::CutOff => "calls cut off by the session's end",
            CallResult::Later => "deferred calls",
            CallResult::Wait(_) => "rate limits",
            CallResult::Token => "refused tokens",
            CallResult::Refused => "refused requests",
        });
        if looks && learnt == CallResult::Failed {
            // The first part of the response may have been enough.
            self.record_others_processed(which, asked.key());
        }
        let Some(seen) = self.by_key(which, asked.key()) else { return };
        if let (CallResult::Wait(until), false) = (learnt, this_call_only) {
            seen.no_call_until = until;
        }
        seen.unknown_effect = learnt != CallResult::Worked;
        let called = matches!(asked, SimulatedRequest::Links { devices, .. } if !devices.is_empty());
        seen.devices_known |= called && learnt == CallResult::Worked;
        if looks {
            seen.list_refused = learnt == CallResult::Refused;
        }
        match learnt {
            CallResult::Failed => {
                seen.failures += 1;
                seen.record_failure(false);
            }
            CallResult::Token => seen.record_failure(true),
            CallResult::Later | CallResult::Wait(_) => (seen.failed, seen.processed_since) = (true, false),
            CallResult::Refused if !looks => seen.refused = true,
            _ => {}
        }
        let (event, failed) = (seen.event, seen.failed && which == SimulatedApi::InstantConnect);
        let id = self.events[event].id.clone();
        // The worker deduplicates events by their id.
        let alike =
            self.seen.values_mut().filter(|seen| seen.queue == SESSIONS && self.events[seen.event].id == id);
        alike.for_each(|seen| seen.failed |= failed);
    }

    /// Records the result of a call. Returns true for a Retry-After that may apply to this call only.
    fn learn(&mut self, which: SimulatedApi, key: &str, looks: bool, learnt: CallResult) -> bool {
        let (now, of_api) = (self.rules.clock.now(), &mut self.learnt[which as usize]);
        match learnt {
            CallResult::Worked | CallResult::Refused => {
                let long =
                    |(at, _): &(Timestamp, String)| now.duration_since(*at) >= FEW_AFTER - UNOBSERVED_MAX;
                of_api.few = of_api.few.max(of_api.failed.first().is_some_and(long).then_some(now));
                let of_before = |(at, _): &mut (Timestamp, String)| now.duration_since(*at) >= UNOBSERVED_MAX;
                let before: Vec<_> = of_api.failed.extract_if(.., of_before).collect();
                of_api.forgotten.retain(|(at, _)| now.duration_since(*at) < KEPT_AFTER);
                of_api.forgotten.extend(before.into_iter().map(|(_, key)| (now, key)));
                of_api.stops = of_api.stops.filter(|at| now.duration_since(*at) < UNOBSERVED_MAX);
                // A look is served even if a message to the same person is not.
                if !looks {
                    of_api.limited.remove(key);
                    of_api.limited.values_mut().for_each(|(served, _)| *served = true);
                }
                self.record_others_processed(which, key);
            }
            CallResult::Failed | CallResult::Later => of_api.failed.push((now, key.to_owned())),
            CallResult::Token => of_api.stops = Some(now),
            CallResult::Wait(_) => {
                of_api.stops = Some(now);
                if let Some((served, times)) = of_api.limited.get_mut(key) {
                    *times += u32::from(std::mem::take(served));
                    return *times >= 2;
                }
                of_api.limited.values_mut().for_each(|(_, times)| *times = 0);
                of_api.limited.insert(key.to_owned(), (false, 0));
            }
            CallResult::CutOff => {}
        }
        false
    }

    /// Records that the worker decided the outcome of a message's only delivery.
    pub(crate) fn decided(&mut self, id: &Uuid) {
        let Some(seen) = self.seen.get_mut(id).filter(|seen| seen.open <= 1) else { return };
        seen.unclear = None;
        let of_api = &mut self.learnt[usize::from(seen.queue == HOSTS)];
        of_api.no_call_until = of_api.no_call_until.max(seen.no_call_until.take());
    }

    fn record_others_processed(&mut self, which: SimulatedApi, key: &str) {
        let queue = if which == SimulatedApi::InstantConnect { SESSIONS } else { HOSTS };
        let others = self.seen.values_mut().filter(|seen| seen.queue == queue && seen.key != key);
        others.for_each(SeenLinks::record_other_processed);
    }

    /// Checks that there was a reason to open the breaker.
    pub(crate) fn breaker_opened(&mut self, which: SimulatedApi) -> Result<(), String> {
        self.count("breakers opened");
        let of_api = &self.learnt[which as usize];
        // The worker may learn of the wait from the ledger, and use it late.
        let asked = self.ever_rate_limited_until[which as usize];
        let asked = asked.is_some_and(|until| self.rules.clock.now().duration_since(until) < UNOBSERVED_MAX);
        let stops = of_api.stops.is_some() || asked;
        let now = self.rules.clock.now();
        let late = of_api.forgotten.iter().filter(|(at, _)| now.duration_since(*at) < KEPT_AFTER);
        let events: BTreeSet<_> = of_api.failed.iter().chain(late).map(|(_, key)| key).collect();
        let few = of_api.failed.len() >= self.breaker_failures
            && of_api
                .failed
                .first()
                .is_some_and(|(at, _)| self.rules.clock.now().duration_since(*at) >= FEW_AFTER);
        let few =
            few || of_api.few.is_some_and(|at| self.rules.clock.now().duration_since(at) < UNOBSERVED_MAX);
        if stops || few || events.len() >= self.breaker_failures {
            return Ok(());
        }
        Err(format!("{which:?}: breaker opened after failures of only {} events", events.len()))
    }

    /// Checks that the breaker does not close during a rate limit.
    pub(crate) fn breaker_closed(&self, which: SimulatedApi) -> Result<(), String> {
        if self.learnt[which as usize].no_call_until.is_some_and(|until| self.rules.clock.now() < until) {
            return Err(format!("{which:?}: breaker closed during a rate limit"));
        }
        Ok(())
    }

    /// Records new links of a session and checks that neither links nor device calls are repeated.
    pub(crate) fn links_made(&mut self, session: &str, devices: &[String], until: i64) -> Result<(), String> {
        self.count("links made");
        let Some(seen) = self.seen.values_mut().find(|seen| seen.queue == SESSIONS && seen.key == session)
        else {
            return Ok(());
        };
        seen.effects += 1;
        seen.unknown_effect = true;
        let all_noted = seen.noted && self.events[seen.event].links.len() <= LINKS_MAX;
        if seen.recorded || all_noted {
            return Err(format!("repeated: {session} gets links again although the ledger has them"));
        }
        if devices.is_empty() {
            return Ok(());
        }
        // Devices of links that have ended are called again, with new links.
        let last =
            seen.devices_until.replace(until).filter(|last| *last > self.rules.clock.now().as_second());
        if last.is_some() && (seen.devices_known || seen.noted) {
            return Err(format!("repeated: the devices of {session} are called again"));
        }
        Ok(())
    }

    /// Records a message to an expert and checks that it is right and not repeated.
    pub(crate) fn message_sent(&mut self, to: &str, text: &str) -> Result<(), String> {
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
            return Err(format!("{to} gets a message with a wrong link"));
        }
        if seen.effects > 1 && (seen.recorded || known || !(seen.room || seen.list_refused)) {
            return Err(format!("repeated: {to} gets a second message"));
        }
        Ok(())
    }

    /// Records the result of a publish as the worker received it.
    pub(crate) fn answered(&mut self, publication: &Publication, result: Result<(), PublishError>) {
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
                // With two deliveries the publish may belong to either, even if the connection of one is gone.
                Ok(()) if seen.open != 1 || seen.may_publish_late => {}
                Ok(()) if copy => seen.copy_confirmed = true,
                Ok(()) => seen.confirmed.extend(link),
            }
        }
    }

    pub(crate) fn unroutable(&mut self, publication: &Publication) {
        self.count("returns");
        let message_id = publication.properties.message_id().as_ref().map(ShortString::as_str);
        let link = message_id.and_then(|id| Uuid::try_parse(id).ok());
        for seen in self.seen.values_mut() {
            let event = &self.events[seen.event];
            seen.unroutable |= event.links.iter().any(|wanted| Some(wanted.message_id) == link);
        }
    }

    /// Checks at the end that every message has a result or a dead letter.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        for (id, seen) in &self.seen {
            if seen.inputs > 0 && !self.is_done(id) && seen.dead.is_empty() {
                return Err(format!("lost: {} has neither a result nor a dead letter", seen.name));
            }
        }
        Ok(())
    }
}
