//! The rules that are checked with every step.
//!
//! - `message`: the observed state of one message
//! - `deliveries`: deliveries and their ends; `confirms`: results of publishes
//! - `calls`: calls to the APIs; `apis`: breakers and rate limits; `effects`: links and messages to experts
//! - `guests`: messages to guests and their receipts; `requests`: start requests to the ingress
//! - `ledger`: reads and writes of the ledger
//! - `links`: published link messages; `copies`: messages in delay queues and dead queues; `dead`: the classes of dead letters

mod apis;
mod calls;
mod confirms;
mod copies;
mod dead;
mod deliveries;
mod effects;
mod guests;
mod ledger;
mod links;
mod message;
mod requests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use instant_connect_worker::{broker::publisher::Publication, clock::Clock, stages};
use jiff::{SignedDuration, Timestamp};
use lapin::types::ShortString;
use uuid::Uuid;

use self::{apis::ApiChecks, deliveries::OpenDelivery, links::PublishedLinks, message::SeenMessage};
use crate::{
    events::{self, Event},
    per_stage::PerStage,
    plan::SendersPlan,
};

/// Delay after a 429 without Retry-After.
pub(crate) const RATE_LIMIT_WAIT: Duration = Duration::from_secs(30);

/// The observed steps, and the first broken rule.
pub(crate) struct Checker {
    pub(crate) violation: Option<String>,
    pub(crate) rules: CheckedRules,
    events: Vec<Event>,
    /// State of each message that a stage consumes, by the event's body or the host link's `message_id`.
    seen: BTreeMap<Uuid, SeenMessage>,
    links: PublishedLinks,
    open: BTreeMap<u64, OpenDelivery>,
    names: BTreeMap<Uuid, String>,
    apis: PerStage<ApiChecks>,
    /// Delivery counts that may be wrong because the ledger failed.
    pub(crate) tries_in_doubt: u32,
    /// Number of different events whose calls must fail before the breaker opens.
    pub(crate) breaker_failures: usize,
    /// Events that must not be delayed by the failures of others.
    pub(crate) fair: BTreeSet<String>,
    /// True if ledger writes may fail in this history.
    pub(crate) ledger_fails: bool,
    /// Limit of calls to an API by one worker during a total outage.
    pub(crate) outage_calls_max: usize,
    /// True while the worker finishes its work before it stops.
    pub(crate) draining: bool,
    /// Number of disturbances of the connection to the broker.
    pub(crate) disturbances: u64,
    /// The longest delay that an API imposed.
    longest_wait: Duration,
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
    /// For a worker that sends the guest links itself.
    pub(crate) senders: Option<SendersPlan>,
}

/// Records that something happened `now`. Returns true if `max` per minute is exceeded.
fn too_often(moments: &mut Vec<Timestamp>, now: Timestamp, max: usize) -> bool {
    moments.retain(|at| now.duration_since(*at) < SignedDuration::from_secs(60));
    moments.push(now);
    moments.len() > max
}

/// The `message_id` of a message, as text and as an id.
fn message_id(publication: &Publication) -> (Option<&str>, Option<Uuid>) {
    let text = publication.properties.message_id().as_ref().map(ShortString::as_str);
    (text, text.and_then(|id| Uuid::try_parse(id).ok()))
}

/// The key of the message in [`Checker::seen`]. A start event has its body as key, because its `message_id` is optional.
fn id_of(stage: &str, message_id: Option<&str>, body: &[u8]) -> Uuid {
    let named = message_id.filter(|_| stage != stages::LINK.name).and_then(|id| Uuid::try_parse(id).ok());
    named.unwrap_or_else(|| events::fingerprint(body))
}

impl Checker {
    pub(crate) fn new(events: Vec<Event>, rules: CheckedRules) -> Self {
        let mut checker = Self {
            violation: None,
            rules,
            events: Vec::new(),
            seen: BTreeMap::new(),
            links: PublishedLinks::default(),
            open: BTreeMap::new(),
            names: BTreeMap::new(),
            apis: PerStage::default(),
            tries_in_doubt: 0,
            breaker_failures: 0,
            fair: BTreeSet::new(),
            ledger_fails: true,
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
        let seen = SeenMessage {
            name: event.session.clone(),
            stage: stages::LINK.name,
            key: event.session.clone(),
            event: self.events.len(),
            deadline: event.expires_at,
            ..SeenMessage::default()
        };
        self.names.insert(key, seen.name.clone());
        self.seen.insert(key, seen);
        self.events.push(event);
    }

    pub(crate) fn sent(&mut self, body: &[u8]) {
        self.count("events");
        if let Some(seen) = self.seen.get_mut(&events::fingerprint(body)) {
            seen.inputs += 1;
        }
    }

    fn now(&self) -> Timestamp {
        self.rules.clock.now()
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// The name of a body in the journal.
    pub(crate) fn name(&self, body: &[u8]) -> &str {
        self.names.get(&events::fingerprint(body)).map_or("something", String::as_str)
    }

    pub(crate) fn worker_ended(&mut self) {
        self.draining = false;
        self.count("worker ends");
        let (now, ledger_fails) = (self.now(), self.ledger_fails);
        self.apis.values_mut().for_each(|api| api.worker_ended(now, ledger_fails));
        self.seen.values_mut().for_each(SeenMessage::worker_ended);
    }

    /// Returns true if a message has all its results.
    fn is_done(&self, of: &Uuid) -> bool {
        let Some(seen) = self.seen.get(of) else { return false };
        if !seen.is_event() {
            return seen.effects > 0;
        }
        let links = &self.events[seen.event].links;
        !links.is_empty() && links.iter().all(|link| self.links.has(&link.message_id))
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
