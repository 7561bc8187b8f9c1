//! An in-memory broker: quorum queues with delivery counts and prefetch, delay queues, and connections that break for
//! the broker first and for the worker later.
//!
//! - `topology`: exchanges, queues and bindings as they were declared
//! - `connection`, `channel`, `subscription`: the worker's end, which implements the broker's port
//! - `publishing`: the fate of each published message
//! - `faults`: broken connections, deleted queues, stalled consumers, alarms

mod channel;
mod connection;
mod faults;
mod publishing;
mod subscription;
mod topology;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use instant_connect_worker::{
    broker::{port::Delivery, topology::TopologyPlan},
    contract::header,
};
use lapin::{BasicProperties, types::AMQPValue};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use self::{
    connection::Wire,
    subscription::{SimulatedReceipt, Subscriber},
    topology::DeclaredTopology,
};
pub(super) use self::{
    connection::{SimulatedBroker, SimulatedConnection},
    faults::{cut_all, cut_one},
};
use crate::world::{Part, World};

/// Queue names with the simulation's prefix.
pub(super) const SESSIONS: &str = "sim.sessions";
pub(super) const HOSTS: &str = "sim.hosts";
pub(super) const GUESTS: &str = "sim.guests";
pub(super) const GUESTS_SMS: &str = "sim.guests.sms";
pub(super) const GUESTS_WHATSAPP: &str = "sim.guests.whatsapp";
/// The queue and the exchange of receipts.
pub(super) const RECEIPTS: &str = "sim.receipts";
/// The exchange for links.
pub(super) const LINKS: &str = "sim.links";

/// Interval at which a producer, or the broker itself, tries again to store a message in a queue that is missing.
const STORE_AGAIN: Duration = Duration::from_secs(1);

/// A message in a queue.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) properties: BasicProperties,
    pub(super) body: Arc<[u8]>,
    /// Deliveries that ended without an ack.
    deliveries: u32,
    /// The time at which the message entered its queue.
    since: Instant,
}

/// All queues and their consumers.
pub(super) struct SimulatedQueues {
    topology: DeclaredTopology,
    /// The stages' queues, in the order of the table. Messages in other queues are not kept, unless they wait there.
    work: Vec<String>,
    ready: BTreeMap<String, VecDeque<Stored>>,
    subscribers: BTreeMap<u64, Subscriber>,
    unsettled: BTreeMap<u64, Unsettled>,
    /// Deliveries that the worker has settled, perhaps before the broker knows.
    used: BTreeSet<u64>,
    /// Consumers of deleted queues that were not notified.
    forgotten: Vec<Subscriber>,
    connections: Vec<Arc<Wire>>,
    /// Number of messages in each delay queue.
    held: BTreeMap<String, usize>,
    up: bool,
    /// Closed when the broker no longer blocks publishing.
    blocked: Option<Arc<Semaphore>>,
    /// True if a nack increases the delivery count, as in RabbitMQ before 4.3.
    counts_nacks: bool,
    next: u64,
}

/// A delivery that is not settled yet.
struct Unsettled {
    message: Stored,
    subscriber: u64,
    queue: String,
}

impl SimulatedQueues {
    /// A broker on which everything of `plan` is declared; `work` are the queues that stages consume.
    pub(super) fn new(plan: TopologyPlan, work: Vec<String>) -> Self {
        Self {
            topology: DeclaredTopology::new(plan),
            ready: work.iter().map(|queue| (queue.clone(), VecDeque::new())).collect(),
            work,
            subscribers: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            used: BTreeSet::new(),
            forgotten: Vec::new(),
            connections: Vec::new(),
            held: BTreeMap::new(),
            up: true,
            blocked: None,
            counts_nacks: true,
            next: 0,
        }
    }

    /// A broker without queues.
    pub(super) fn empty() -> Self {
        Self::new(
            TopologyPlan { exchanges: Vec::new(), queues: Vec::new(), bindings: Vec::new() },
            Vec::new(),
        )
    }

    /// Starts or stops the broker.
    pub(super) const fn set_up(&mut self, up: bool) {
        self.up = up;
    }

    /// Sets if a nack increases the delivery count.
    pub(super) const fn set_counts_nacks(&mut self, counts: bool) {
        self.counts_nacks = counts;
    }

    /// A number that the broker gave to nothing before.
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn held(&self) -> usize {
        self.held.values().sum()
    }

    /// True if a queue was ever deleted.
    pub(super) fn has_deleted(&self) -> bool {
        self.topology.has_deleted()
    }

    /// Returns true if no message is ready, unsettled or delayed.
    pub(super) fn idle(&self) -> bool {
        self.held() == 0 && self.unsettled.is_empty() && self.ready.values().all(VecDeque::is_empty)
    }

    /// Describes the messages that are left, for a report.
    pub(super) fn left(&self) -> String {
        let ready: Vec<_> = self.ready.iter().map(|(name, ready)| (name, ready.len())).collect();
        format!("ready {ready:?}, unsettled {}, delayed {}", self.unsettled.len(), self.held())
    }

    /// True if no message would be lost with the queue `name`.
    fn is_empty(&self, name: &str) -> bool {
        self.ready.get(name).is_none_or(VecDeque::is_empty)
            && self.held.get(name).is_none_or(|held| *held == 0)
            && self.unsettled.values().all(|unsettled| unsettled.queue != name)
    }
}

impl Stored {
    pub(super) fn new(properties: BasicProperties, body: Arc<[u8]>) -> Self {
        Self { properties, body, deliveries: 0, since: Instant::now() }
    }

    /// The properties as the broker delivers them.
    fn properties(&self) -> BasicProperties {
        let mut headers = self.properties.headers().clone().unwrap_or_default();
        if self.deliveries > 0 {
            headers.insert(header::DELIVERY_COUNT.into(), AMQPValue::LongLongInt(self.deliveries.into()));
        }
        self.properties.clone().with_headers(headers)
    }
}

impl Part<'_, SimulatedQueues> {
    /// Stores a message in a queue, if necessary as soon as the queue exists.
    pub(super) fn store(&mut self, world: &World, queue: &str, message: Stored) {
        if !self.topology.has_queue(queue) {
            let (world, queue) = (world.clone(), queue.to_owned());
            tokio::spawn(async move {
                sleep(STORE_AGAIN).await;
                world.lock().broker().store(&world, &queue, message);
            });
        } else if let Some((delay, target)) = self.topology.delay(queue) {
            *self.held.entry(queue.to_owned()).or_default() += 1;
            let late = Duration::from_millis(self.common.random.u64(..200));
            let (world, queue) = (world.clone(), queue.to_owned());
            tokio::spawn(async move {
                sleep(delay + late).await;
                // At least once: the message stays in the delay queue until the other queue has it.
                while !world.lock().broker().topology.has_queue(&target) {
                    sleep(STORE_AGAIN).await;
                }
                let mut state = world.lock();
                let mut broker = state.broker();
                if let Some(held) = broker.held.get_mut(&queue) {
                    *held -= 1;
                }
                broker.store(&world, &target, Stored { deliveries: 0, since: Instant::now(), ..message });
            });
        } else if let Some(ready) = self.ready.get_mut(queue) {
            ready.push_back(message);
            self.deliver(queue);
        }
    }

    /// Delivers the ready messages of `queue` within each consumer's prefetch.
    fn deliver(&mut self, queue: &str) {
        loop {
            let open = |(_, to): &(&u64, &Subscriber)| to.queue == queue && to.takes();
            let Some(number) = self.subscribers.iter().find(open).map(|(number, _)| *number) else {
                return;
            };
            let Some(message) = self.ready.get_mut(queue).and_then(VecDeque::pop_front) else { return };
            let tag = self.number();
            let Some(to) = self.subscribers.get_mut(&number) else { return };
            to.unsettled += 1;
            let delivery = Delivery {
                body: message.body.to_vec(),
                properties: message.properties(),
                redelivered: message.deliveries > 0,
                receipt: Arc::new(SimulatedReceipt::new(&to.wire, tag)),
            };
            // A closed receiver means that its connection is gone too.
            _ = to.deliver.send(delivery);
            let name = self.common.checker.name(&message.body).to_owned();
            self.common
                .log(format_args!("{queue}: {tag} delivered, {} times before: {name}", message.deliveries));
            let rule = self.common.checker.waited(queue, &message.body, message.since.elapsed());
            self.common.must(rule);
            let rule = self.common.checker.delivered(tag, queue, &message);
            self.common.must(rule);
            let unsettled = Unsettled { message, subscriber: number, queue: queue.to_owned() };
            self.unsettled.insert(tag, unsettled);
        }
    }

    /// Removes `tag` from the unsettled deliveries, if the worker still holds it.
    fn settled(&mut self, tag: u64) -> Option<Unsettled> {
        let unsettled = self.unsettled.remove(&tag)?;
        self.used.remove(&tag);
        if let Some(subscriber) = self.subscribers.get_mut(&unsettled.subscriber) {
            subscriber.unsettled -= 1;
        }
        Some(unsettled)
    }

    /// Returns a message to its queue.
    fn requeue(&mut self, mut unsettled: Unsettled, counted: bool) {
        unsettled.message.deliveries += u32::from(counted);
        unsettled.message.since = Instant::now();
        let front = self.common.random.bool();
        let Some(ready) = self.ready.get_mut(&unsettled.queue) else { return };
        if front { ready.push_front(unsettled.message) } else { ready.push_back(unsettled.message) }
    }
}
