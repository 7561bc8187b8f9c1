//! Subscriptions of the worker, and the settling of its deliveries.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use instant_connect_worker::broker::{
    connection::BrokerError,
    port::{Deliveries, Delivery, Settle},
};
use tokio::{sync::mpsc, time::sleep};

use super::{
    SimulatedQueues,
    channel::refused,
    connection::{Wire, ended},
    topology::not_found,
};
use crate::world::World;

/// A consumer as the broker sees it.
pub(super) struct Subscriber {
    pub(super) wire: Arc<Wire>,
    pub(super) queue: String,
    prefetch: usize,
    pub(super) unsettled: usize,
    /// The broker delivers nothing more to it.
    pub(super) stalled: bool,
    pub(super) deliver: mpsc::UnboundedSender<Delivery>,
}

/// A subscription as the worker sees it.
pub(super) struct SimulatedSubscription {
    wire: Arc<Wire>,
    number: u64,
    deliveries: mpsc::UnboundedReceiver<Delivery>,
}

pub(super) struct SimulatedReceipt {
    wire: Arc<Wire>,
    tag: u64,
    used: Arc<AtomicBool>,
}

impl fmt::Debug for SimulatedReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimulatedReceipt({})", self.tag)
    }
}

impl Subscriber {
    /// True if a message can be delivered now.
    pub(super) fn takes(&self) -> bool {
        self.unsettled < self.prefetch && !self.stalled && !self.wire.is_cut()
    }
}

impl SimulatedQueues {
    /// Number of consumers of `queue`.
    pub(super) fn consumers(&self, queue: &str) -> usize {
        self.subscribers.values().filter(|to| to.queue == queue && to.prefetch > 0).count()
    }

    /// Deliveries on `wire` that the worker has not settled.
    pub(super) fn unsettled_on(&self, wire: &Arc<Wire>) -> Vec<u64> {
        let mine = |number: &u64| {
            self.subscribers.get(number).is_some_and(|subscriber| Arc::ptr_eq(&subscriber.wire, wire))
        };
        let unsettled = self.unsettled.iter().filter(|(_, unsettled)| mine(&unsettled.subscriber));
        unsettled.map(|(tag, _)| *tag).filter(|tag| !self.used.contains(tag)).collect()
    }
}

pub(super) async fn subscribe(
    wire: &Arc<Wire>,
    queue: &str,
    prefetch: u16,
) -> Result<SimulatedSubscription, BrokerError> {
    let life = &wire.life;
    life.pass("subscribing").await;
    if wire.is_cut() {
        wire.gone().await;
        return Err(ended());
    }
    let (deliver_to, deliveries) = mpsc::unbounded_channel();
    let mut state = life.world.lock();
    let mut broker = state.broker();
    if !broker.topology.has_queue(queue) {
        return Err(BrokerError::Lapin("consume", refused(not_found("queue", queue))));
    }
    let number = broker.number();
    let subscriber = Subscriber {
        wire: Arc::clone(wire),
        queue: queue.to_owned(),
        prefetch: prefetch.into(),
        unsettled: 0,
        stalled: false,
        deliver: deliver_to,
    };
    broker.subscribers.insert(number, subscriber);
    broker.common.log(format_args!("{queue}: subscribed with prefetch {prefetch}"));
    let rule = broker.common.checker.subscribed(queue, prefetch);
    broker.common.must(rule);
    drop(state);
    Ok(SimulatedSubscription { wire: Arc::clone(wire), number, deliveries })
}

impl Deliveries for SimulatedSubscription {
    fn next(&mut self) -> BoxFuture<'_, Result<Delivery, BrokerError>> {
        Box::pin(async move {
            if let Some(delivery) = self.deliveries.recv().await {
                return Ok(delivery);
            }
            if !self.wire.is_cut() {
                return Err(BrokerError::Ended("the queue was deleted".to_owned()));
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
        if let Some(subscriber) = state.broker().subscribers.get_mut(&self.number) {
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
            let counted = self.wire.life.world.lock().broker().counts_nacks;
            Ok(self.nack(counted).await)
        })
    }

    fn requeue_counted(&self, _limit: Duration) -> BoxFuture<'_, Result<bool, BrokerError>> {
        Box::pin(async move { Ok(self.nack(true).await) })
    }
}

impl SimulatedReceipt {
    pub(super) fn new(wire: &Arc<Wire>, tag: u64) -> Self {
        Self { wire: Arc::clone(wire), tag, used: Arc::default() }
    }

    /// Takes the right to settle the delivery. Returns false if it is gone.
    fn take(&self) -> bool {
        if !self.usable() || self.used.swap(true, Ordering::Relaxed) {
            return false;
        }
        self.wire.life.world.lock().broker().used.insert(self.tag);
        true
    }

    /// Sends the ack at once. The broker handles it later, unless the connection breaks first.
    async fn acknowledge(&self) -> bool {
        let life = self.wire.life.clone();
        life.point("before the ack").await;
        if !self.take() {
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
        if !self.take() {
            return false;
        }
        {
            let mut state = life.world.lock();
            let mut broker = state.broker();
            let unsettled = if self.wire.is_cut() { None } else { broker.settled(self.tag) };
            if let Some(unsettled) = unsettled {
                broker.common.log(format_args!("{}: {} requeued", unsettled.queue, self.tag));
                let rule = broker.common.checker.requeued(self.tag);
                broker.common.must(rule);
                let queue = unsettled.queue.clone();
                broker.requeue(unsettled, counted);
                broker.deliver(&queue);
            }
        }
        life.point("after the nack").await;
        true
    }
}

fn acknowledge(world: &World, wire: &Wire, tag: u64) {
    let mut state = world.lock();
    let mut broker = state.broker();
    let unsettled = if wire.is_cut() { None } else { broker.settled(tag) };
    let Some(unsettled) = unsettled else {
        return broker.common.log(format_args!("{tag} ack had no effect"));
    };
    let queue = unsettled.queue;
    broker.common.log(format_args!("{queue}: {tag} acknowledged"));
    let rule = broker.common.checker.acknowledged(tag, &queue, &unsettled.message);
    broker.common.must(rule);
    broker.deliver(&queue);
}
