//! An in-memory broker: quorum queues with delivery counts and prefetch, delay queues, and connections that break for
//! the broker first and for the worker later.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use lapin::{BasicProperties, types::AMQPValue};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, sleep},
};

use super::world::{Life, World, WorldState};
use crate::{
    broker::{
        connection::BrokerError,
        port::{Deliveries, Delivery, Peer, Receipt, Settle, Subscribe, Subscription},
    },
    contract::{
        header,
        stage::{StageDef, queues},
    },
};

/// The topology prefix of the simulation.
const PREFIX: &str = "sim";
/// Queue names with this prefix.
pub(super) const SESSIONS: &str = "sim.sessions";
pub(super) const HOSTS: &str = "sim.hosts";
pub(super) const GUESTS: &str = "sim.guests";
/// The exchange for links.
pub(super) const LINKS: &str = "sim.links";

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
    /// The stages' queues, in the order of the table.
    work: Vec<String>,
    /// Exchange, routing key and queue of each binding.
    bindings: Vec<(String, &'static str, String)>,
    ready: BTreeMap<String, VecDeque<Stored>>,
    holds: BTreeMap<String, (Duration, String)>,
    subscribers: BTreeMap<u64, Subscriber>,
    unsettled: BTreeMap<u64, Unsettled>,
    connections: Vec<Arc<Wire>>,
    /// Number of messages in the delay queues.
    held: usize,
    pub(super) up: bool,
    /// True if a nack increases the delivery count, as in RabbitMQ before 4.3.
    pub(super) counts_nacks: bool,
    /// A routing key whose binding is missing at present.
    pub(super) unbound: Option<&'static str>,
    next: u64,
}

struct Subscriber {
    wire: Arc<Wire>,
    queue: String,
    prefetch: usize,
    unsettled: usize,
    deliver: mpsc::UnboundedSender<Delivery>,
}

/// A delivery that is not settled yet.
struct Unsettled {
    message: Stored,
    subscriber: u64,
    queue: String,
}

/// A connection of the worker.
pub(super) struct Wire {
    pub(super) life: Life,
    /// True if the broker's end is closed.
    cut: AtomicBool,
    /// Closed when the worker's end is closed too.
    gone: Semaphore,
}

#[derive(Clone)]
pub(crate) struct SimulatedConnection(pub(super) Arc<Wire>);

struct SimulatedSubscription {
    wire: Arc<Wire>,
    number: u64,
    deliveries: mpsc::UnboundedReceiver<Delivery>,
}

struct SimulatedReceipt {
    wire: Arc<Wire>,
    tag: u64,
    used: AtomicBool,
}

impl fmt::Debug for SimulatedReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimulatedReceipt({})", self.tag)
    }
}

impl SimulatedQueues {
    pub(super) fn new(stages: &[&'static StageDef], delays: &[Duration]) -> Self {
        let named = |name: &str| format!("{PREFIX}.{name}");
        let work: Vec<_> = stages.iter().map(|stage| named(stage.queue.name)).collect();
        let holds = work.iter().flat_map(|queue| {
            delays
                .iter()
                .map(move |delay| (format!("{queue}.hold.{}", delay.as_millis()), (*delay, queue.clone())))
        });
        let bindings = queues(stages).flat_map(|queue| {
            queue.bindings.iter().map(move |(exchange, key)| (named(exchange), *key, named(queue.name)))
        });
        Self {
            bindings: bindings.collect(),
            ready: work.iter().map(|queue| (queue.clone(), VecDeque::new())).collect(),
            holds: holds.collect(),
            work,
            subscribers: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            connections: Vec::new(),
            held: 0,
            up: true,
            counts_nacks: true,
            unbound: None,
            next: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Returns true if no message is ready, unsettled or delayed.
    pub(super) fn idle(&self) -> bool {
        self.held == 0 && self.unsettled.is_empty() && self.ready.values().all(VecDeque::is_empty)
    }

    /// Describes the messages that are left, for a report.
    pub(super) fn left(&self) -> String {
        let ready: Vec<_> = self.ready.iter().map(|(name, ready)| (name, ready.len())).collect();
        format!("ready {ready:?}, unsettled {}, delayed {}", self.unsettled.len(), self.held)
    }

    /// The delay of the delay queue `name`.
    pub(super) fn delay(&self, name: &str) -> Option<Duration> {
        self.holds.get(name).map(|(delay, _)| *delay)
    }
}

/// The queue to which the topology routes a message.
pub(super) fn route(queues: &SimulatedQueues, exchange: &str, key: &str) -> Option<String> {
    if queues.unbound == Some(key) {
        return None;
    }
    if exchange.is_empty() {
        let dead = key.strip_suffix(".dead").is_some_and(|work| queues.ready.contains_key(work));
        return (dead || queues.holds.contains_key(key)).then(|| key.to_owned());
    }
    let binding = queues.bindings.iter().find(|(from, bound, _)| from == exchange && *bound == key);
    binding.map(|(_, _, queue)| queue.clone())
}

/// Stores a message in a queue.
pub(super) fn store(world: &World, state: &mut WorldState, queue: &str, message: Stored) {
    if let Some((delay, target)) = state.broker.holds.get(queue).cloned() {
        state.broker.held += 1;
        let late = Duration::from_millis(state.random.u64(..200));
        let world = world.clone();
        tokio::spawn(async move {
            sleep(delay + late).await;
            let mut state = world.lock();
            state.broker.held -= 1;
            store(&world, &mut state, &target, Stored { deliveries: 0, since: Instant::now(), ..message });
        });
    } else if let Some(ready) = state.broker.ready.get_mut(queue) {
        ready.push_back(message);
        deliver(state, queue);
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

/// Delivers the ready messages of `queue` within each consumer's prefetch.
fn deliver(state: &mut WorldState, queue: &str) {
    loop {
        let open = |(_, to): &(&u64, &Subscriber)| {
            to.queue == queue && to.unsettled < to.prefetch && !to.wire.cut.load(Ordering::Relaxed)
        };
        let Some(number) = state.broker.subscribers.iter().find(open).map(|(number, _)| *number) else {
            return;
        };
        let Some(message) = state.broker.ready.get_mut(queue).and_then(VecDeque::pop_front) else { return };
        let tag = state.broker.number();
        let Some(to) = state.broker.subscribers.get_mut(&number) else { return };
        to.unsettled += 1;
        let receipt = SimulatedReceipt { wire: Arc::clone(&to.wire), tag, used: AtomicBool::new(false) };
        let delivery = Delivery {
            body: message.body.to_vec(),
            properties: message.properties(),
            redelivered: message.deliveries > 0,
            receipt: Arc::new(receipt),
        };
        // A closed receiver means that its connection is gone too.
        _ = to.deliver.send(delivery);
        let name = state.checker.name(&message.body).to_owned();
        state.log(format_args!("{queue}: {tag} delivered, {} times before: {name}", message.deliveries));
        let rule = state.checker.waited(queue, &message.body, message.since.elapsed());
        state.must(rule);
        let rule = state.checker.delivered(tag, queue, &message);
        state.must(rule);
        state
            .broker
            .unsettled
            .insert(tag, Unsettled { message, subscriber: number, queue: queue.to_owned() });
    }
}

/// Removes `tag` from the unsettled deliveries, if the worker still holds it.
fn settled(state: &mut WorldState, tag: u64) -> Option<Unsettled> {
    let unsettled = state.broker.unsettled.remove(&tag)?;
    if let Some(subscriber) = state.broker.subscribers.get_mut(&unsettled.subscriber) {
        subscriber.unsettled -= 1;
    }
    Some(unsettled)
}

/// Returns a message to its queue.
fn requeue(state: &mut WorldState, mut unsettled: Unsettled, counted: bool) {
    unsettled.message.deliveries += u32::from(counted);
    unsettled.message.since = Instant::now();
    let front = state.random.bool();
    let Some(ready) = state.broker.ready.get_mut(&unsettled.queue) else { return };
    if front { ready.push_front(unsettled.message) } else { ready.push_back(unsettled.message) }
}

/// Closes the broker's end of `wire` now, and the worker's end soon after.
pub(super) fn cut(world: &World, wire: &Arc<Wire>, why: &str) {
    if wire.cut.swap(true, Ordering::Relaxed) {
        return;
    }
    let over = wire.life.is_over();
    let mut state = world.lock();
    state.log(format_args!("a connection breaks: {why}"));
    state.checker.disturbances += 1;
    state.broker.connections.retain(|other| !Arc::ptr_eq(other, wire));
    let mine: Vec<u64> = (state.broker.subscribers.iter())
        .filter(|(_, subscriber)| Arc::ptr_eq(&subscriber.wire, wire))
        .map(|(number, _)| *number)
        .collect();
    let tags: Vec<u64> = (state.broker.unsettled.iter())
        .filter(|(_, unsettled)| mine.contains(&unsettled.subscriber))
        .map(|(tag, _)| *tag)
        .collect();
    for tag in tags {
        if let Some(unsettled) = settled(&mut state, tag) {
            state.checker.taken_back(tag, !over);
            requeue(&mut state, unsettled, true);
        }
    }
    for number in mine {
        state.broker.subscribers.remove(&number);
    }
    let noticed = Duration::from_millis(if state.random.bool() { 0 } else { state.random.u64(..3000) });
    for queue in state.broker.work.clone() {
        deliver(&mut state, &queue);
    }
    drop(state);
    let wire = Arc::clone(wire);
    tokio::spawn(async move {
        sleep(noticed).await;
        wire.gone.close();
    });
}

/// Closes all connections.
pub(super) fn cut_all(world: &World, why: &str) {
    let connections = world.lock().broker.connections.clone();
    for wire in &connections {
        cut(world, wire, why);
    }
}

/// Closes one random connection.
pub(super) fn cut_one(world: &World) {
    let wire = {
        let mut state = world.lock();
        let count = state.broker.connections.len();
        (count > 0)
            .then(|| state.random.usize(..count))
            .map(|index| Arc::clone(&state.broker.connections[index]))
    };
    if let Some(wire) = wire {
        cut(world, &wire, "the network");
    }
}

fn ended() -> BrokerError {
    BrokerError::Ended("the simulated connection broke".to_owned())
}

impl Wire {
    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// Returns true if the worker knows that the connection is gone.
    fn is_gone(&self) -> bool {
        self.gone.is_closed()
    }

    /// Resolves when the worker knows that the connection is gone.
    pub(super) async fn gone(&self) {
        // The semaphore has no permits; it is only closed.
        _ = self.gone.acquire().await;
    }
}

impl SimulatedConnection {
    /// Makes one attempt to connect.
    pub(super) async fn open(life: &Life) -> Result<Self, BrokerError> {
        life.pass("connecting").await;
        let mut state = life.world.lock();
        if !state.broker.up {
            return Err(ended());
        }
        let wire =
            Arc::new(Wire { life: life.clone(), cut: AtomicBool::new(false), gone: Semaphore::new(0) });
        state.broker.connections.push(Arc::clone(&wire));
        drop(state);
        Ok(Self(wire))
    }

    /// A receipt on this connection for a delivery that the broker does not know.
    pub(crate) fn receipt(&self) -> Receipt {
        Arc::new(SimulatedReceipt { wire: Arc::clone(&self.0), tag: 0, used: AtomicBool::new(false) })
    }

    /// Closes both ends.
    pub(crate) fn break_off(&self) {
        self.0.cut.store(true, Ordering::Relaxed);
        self.0.gone.close();
    }

    async fn subscribe_to(&self, queue: &str, prefetch: u16) -> Result<SimulatedSubscription, BrokerError> {
        let life = &self.0.life;
        life.pass("subscribing").await;
        if self.0.is_cut() {
            self.0.gone().await;
            return Err(ended());
        }
        let (deliver_to, deliveries) = mpsc::unbounded_channel();
        let mut state = life.world.lock();
        let number = state.broker.number();
        let subscriber = Subscriber {
            wire: Arc::clone(&self.0),
            queue: queue.to_owned(),
            prefetch: prefetch.into(),
            unsettled: 0,
            deliver: deliver_to,
        };
        state.broker.subscribers.insert(number, subscriber);
        state.log(format_args!("{queue}: subscribed with prefetch {prefetch}"));
        let rule = state.checker.subscribed(queue, prefetch);
        state.must(rule);
        deliver(&mut state, queue);
        drop(state);
        Ok(SimulatedSubscription { wire: Arc::clone(&self.0), number, deliveries })
    }
}

impl Peer for SimulatedConnection {
    fn is_gone(&self) -> bool {
        self.0.is_gone()
    }
}

impl Subscribe for SimulatedConnection {
    fn subscribe<'a>(
        &'a self,
        queue: &'a str,
        _name: &'a str,
        prefetch: u16,
        _limit: Duration,
    ) -> BoxFuture<'a, Result<Subscription, BrokerError>> {
        Box::pin(async move { Ok(Box::new(self.subscribe_to(queue, prefetch).await?) as Subscription) })
    }
}

impl Deliveries for SimulatedSubscription {
    fn next(&mut self) -> BoxFuture<'_, Result<Delivery, BrokerError>> {
        Box::pin(async move {
            if let Some(delivery) = self.deliveries.recv().await {
                return Ok(delivery);
            }
            self.wire.gone().await;
            Err(ended())
        })
    }

    fn check(&self) -> Result<(), BrokerError> {
        if self.wire.is_gone() { Err(ended()) } else { Ok(()) }
    }

    fn cancel(self: Box<Self>, _limit: Duration) -> BoxFuture<'static, Result<Vec<Delivery>, BrokerError>> {
        Box::pin((*self).end())
    }
}

impl SimulatedSubscription {
    async fn end(mut self) -> Result<Vec<Delivery>, BrokerError> {
        self.wire.life.pass("cancelling").await;
        if self.wire.is_cut() {
            self.wire.gone().await;
            return Err(ended());
        }
        let mut left = Vec::new();
        let mut state = self.wire.life.world.lock();
        if let Some(subscriber) = state.broker.subscribers.get_mut(&self.number) {
            subscriber.prefetch = 0;
        }
        state.log(format_args!("a subscription ends"));
        while let Ok(delivery) = self.deliveries.try_recv() {
            left.push(delivery);
        }
        drop(state);
        Ok(left)
    }
}

impl Settle for SimulatedReceipt {
    fn usable(&self) -> bool {
        !self.wire.is_gone() && !self.used.load(Ordering::Relaxed)
    }

    fn ack(&self, _limit: Duration) -> BoxFuture<'_, Result<bool, BrokerError>> {
        Box::pin(async move { Ok(self.acknowledge().await) })
    }

    fn requeue(&self, _limit: Duration) -> BoxFuture<'_, Result<bool, BrokerError>> {
        Box::pin(async move {
            let counted = self.wire.life.world.lock().broker.counts_nacks;
            Ok(self.nack(counted).await)
        })
    }

    fn requeue_counted(&self, _limit: Duration) -> BoxFuture<'_, Result<bool, BrokerError>> {
        Box::pin(async move { Ok(self.nack(true).await) })
    }
}

impl SimulatedReceipt {
    /// Sends the ack at once. The broker handles it later, unless the connection breaks first.
    async fn acknowledge(&self) -> bool {
        let life = self.wire.life.clone();
        life.point("before the ack").await;
        if !self.usable() || self.used.swap(true, Ordering::Relaxed) {
            return false;
        }
        let (late, wait) = {
            let mut state = life.world.lock();
            let share = state.plan.late_ack;
            (state.chance(share), Duration::from_millis(state.random.u64(..2000)))
        };
        let (world, wire, tag) = (life.world.clone(), Arc::clone(&self.wire), self.tag);
        if late {
            tokio::spawn(async move {
                sleep(wait).await;
                acknowledge(&world, &wire, tag);
            });
        } else {
            acknowledge(&world, &wire, tag);
        }
        life.point("after the ack").await;
        true
    }

    async fn nack(&self, counted: bool) -> bool {
        let life = &self.wire.life;
        life.point("before the nack").await;
        if !self.usable() || self.used.swap(true, Ordering::Relaxed) {
            return false;
        }
        {
            let mut state = life.world.lock();
            let unsettled = if self.wire.is_cut() { None } else { settled(&mut state, self.tag) };
            if let Some(unsettled) = unsettled {
                state.log(format_args!("{}: {} requeued", unsettled.queue, self.tag));
                let rule = state.checker.requeued(self.tag);
                state.must(rule);
                let queue = unsettled.queue.clone();
                requeue(&mut state, unsettled, counted);
                deliver(&mut state, &queue);
            }
        }
        life.point("after the nack").await;
        true
    }
}

fn acknowledge(world: &World, wire: &Wire, tag: u64) {
    let mut state = world.lock();
    let unsettled = if wire.is_cut() { None } else { settled(&mut state, tag) };
    let Some(unsettled) = unsettled else {
        return state.log(format_args!("{tag} ack had no effect"));
    };
    let queue = unsettled.queue;
    state.log(format_args!("{queue}: {tag} acknowledged"));
    let rule = state.checker.acknowledged(tag, &queue, &unsettled.message);
    state.must(rule);
    deliver(&mut state, &queue);
}
