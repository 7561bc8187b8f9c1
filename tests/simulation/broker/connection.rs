//! Connections of the worker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use instant_connect_worker::broker::{
    connection::BrokerError,
    port::{Broker, BrokerConnection, ConnectionLimits, Peer, Subscribe, Subscription},
};
use tokio::{sync::Semaphore, time::sleep};

use super::channel::SimulatedChannel;
use crate::world::{Life, World};

/// Purpose of the connection on which messages are published. The broker may block it.
const PUBLISH: &str = "publish";
/// The limits of all connections.
const LIMITS: ConnectionLimits = ConnectionLimits {
    timeout: Duration::from_secs(30),
    reconnect_max: Duration::from_secs(5),
    watch_interval: Duration::from_secs(10),
};

/// The broker as one life of the worker sees it.
pub(crate) struct SimulatedBroker(pub(crate) Life);

/// A connection of the worker.
pub(crate) struct Wire {
    pub(crate) life: Life,
    pub(super) purpose: String,
    /// True if the broker's end is closed.
    cut: AtomicBool,
    /// Closed when the worker's end is closed too.
    gone: Semaphore,
}

#[derive(Clone)]
pub(crate) struct SimulatedConnection(pub(super) Arc<Wire>);

pub(super) fn ended() -> BrokerError {
    BrokerError::Ended("the simulated connection broke".to_owned())
}

/// lapin's error after a connection broke.
pub(super) fn broken() -> lapin::Error {
    lapin::ErrorKind::InvalidConnectionState(lapin::ConnectionState::Error).into()
}

impl Wire {
    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// Returns true if the worker knows that the connection is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.is_closed()
    }

    /// Resolves when the worker knows that the connection is gone.
    pub(super) async fn gone(&self) {
        // The semaphore has no permits; it is only closed.
        _ = self.gone.acquire().await;
    }

    fn blocked(&self) -> Option<Arc<Semaphore>> {
        self.life.world.lock().broker().blocked.clone().filter(|_| self.purpose == PUBLISH)
    }

    /// Resolves when the connection is not blocked: until then, lapin writes nothing.
    pub(super) async fn writable(&self) {
        while let Some(blocked) = self.blocked() {
            _ = blocked.acquire().await;
        }
    }
}

impl Broker for SimulatedBroker {
    type Connection = SimulatedConnection;

    fn limits(&self) -> ConnectionLimits {
        LIMITS
    }

    async fn connect(&self, purpose: &str) -> Result<SimulatedConnection, BrokerError> {
        let life = &self.0;
        life.pass("connecting").await;
        let mut state = life.world.lock();
        let mut broker = state.broker();
        if !broker.up {
            return Err(ended());
        }
        let wire = Arc::new(Wire {
            life: life.clone(),
            purpose: purpose.to_owned(),
            cut: AtomicBool::new(false),
            gone: Semaphore::new(0),
        });
        broker.connections.push(Arc::clone(&wire));
        drop(state);
        Ok(SimulatedConnection(wire))
    }
}

impl Peer for SimulatedConnection {
    fn is_gone(&self) -> bool {
        self.0.is_gone()
    }

    async fn closed(&self) {
        self.0.gone().await;
    }
}

impl BrokerConnection for SimulatedConnection {
    type Channel = SimulatedChannel;

    fn is_blocked(&self) -> bool {
        self.0.blocked().is_some()
    }

    async fn open_channel(&self) -> lapin::Result<SimulatedChannel> {
        SimulatedChannel::open(&self.0).await
    }

    async fn close(&self) {
        if self.0.is_cut() {
            return;
        }
        let life = &self.0.life;
        life.point("closing a connection").await;
        {
            let mut state = life.world.lock();
            let left = state.broker().unsettled_on(&self.0);
            let rule = state.checker.closed(&left);
            state.must(rule);
        }
        cut(&life.world, &self.0, "the worker closes it");
        self.0.gone.close();
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
        Box::pin(async move {
            let subscription = super::subscription::subscribe(&self.0, queue, prefetch).await?;
            self.0.life.world.lock().broker().deliver(queue);
            Ok(Box::new(subscription) as Subscription)
        })
    }
}

/// Closes the broker's end of `wire` now, and the worker's end soon after.
pub(super) fn cut(world: &World, wire: &Arc<Wire>, why: &str) {
    if wire.cut.swap(true, Ordering::Relaxed) {
        return;
    }
    let over = wire.life.is_over();
    let mut state = world.lock();
    let mut broker = state.broker();
    broker.common.log(format_args!("a connection breaks: {why}"));
    broker.common.checker.disturbances += 1;
    broker.connections.retain(|other| !Arc::ptr_eq(other, wire));
    let mine: Vec<u64> = (broker.subscribers.iter())
        .filter(|(_, subscriber)| Arc::ptr_eq(&subscriber.wire, wire))
        .map(|(number, _)| *number)
        .collect();
    let tags: Vec<u64> = (broker.unsettled.iter())
        .filter(|(_, unsettled)| mine.contains(&unsettled.subscriber))
        .map(|(tag, _)| *tag)
        .collect();
    for tag in tags {
        if let Some(unsettled) = broker.settled(tag) {
            broker.common.checker.taken_back(tag, !over);
            broker.requeue(unsettled, true);
        }
    }
    for number in mine {
        broker.subscribers.remove(&number);
    }
    let noticed =
        Duration::from_millis(if broker.common.random.bool() { 0 } else { broker.common.random.u64(..3000) });
    for queue in broker.work.clone() {
        broker.deliver(&queue);
    }
    drop(state);
    let wire = Arc::clone(wire);
    tokio::spawn(async move {
        sleep(noticed).await;
        wire.gone.close();
    });
}
