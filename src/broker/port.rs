//! The broker as the worker's loops see it: connections, channels, subscriptions and receipts, as interfaces. `amqp`
//! implements them with lapin, `tests/simulation` in memory. Properties and errors are lapin's own.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use lapin::BasicProperties;
use tokio::time::sleep;

use super::{
    connection::BrokerError,
    publisher::Publication,
    topology::{Argument, Binding, Depth, Exchange},
};

/// A connection on which deliveries arrive.
pub type Source<'a> = &'a dyn Subscribe;
/// A subscription to one queue.
pub type Subscription = Box<dyn Deliveries>;
/// Settles one delivery, once.
pub type Receipt = Arc<dyn Settle>;

/// A broker, which may be a cluster.
pub trait Broker: Send + Sync + 'static {
    type Connection: BrokerConnection;

    fn limits(&self) -> ConnectionLimits;

    /// Tries once to connect. `purpose` shows in the broker's list of connections.
    fn connect(&self, purpose: &str) -> impl Future<Output = Result<Self::Connection, BrokerError>> + Send;
}

/// The time limits of connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Time limit for each reply of the broker.
    pub timeout: Duration,
    /// Maximum wait between two attempts to connect.
    pub reconnect_max: Duration,
    /// Interval between two checks of queues and consumers.
    pub watch_interval: Duration,
}

/// Anything that can close while we await a reply: a connection, a channel or a delivery.
pub trait Peer: Sync {
    /// True if no reply can arrive any more.
    fn is_gone(&self) -> bool;

    /// Resolves when the peer is gone.
    fn closed(&self) -> impl Future<Output = ()> + Send
    where
        Self: Sized,
    {
        async {
            while !self.is_gone() {
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// An established connection. The caller limits the time of each request.
pub trait BrokerConnection: Subscribe + 'static {
    type Channel: BrokerChannel;

    /// True while the broker blocks publishing on this connection.
    fn is_blocked(&self) -> bool;

    fn open_channel(&self) -> impl Future<Output = lapin::Result<Self::Channel>> + Send;

    /// Closes the connection within a moment, whether the broker replies or not.
    fn close(&self) -> impl Future<Output = ()> + Send;
}

/// A channel of a connection. The caller limits the time of each request.
pub trait BrokerChannel: Peer + Clone + Send + 'static {
    /// Declares a durable exchange, or only verifies that it exists if `passive`.
    fn declare_exchange(
        &self,
        exchange: &Exchange,
        passive: bool,
    ) -> impl Future<Output = lapin::Result<()>> + Send;

    /// Declares the durable queue `name`, or only verifies that it exists if `passive`.
    fn declare_queue(
        &self,
        name: &str,
        arguments: &[(&'static str, Argument)],
        passive: bool,
    ) -> impl Future<Output = lapin::Result<Depth>> + Send;

    fn bind(&self, binding: &Binding) -> impl Future<Output = lapin::Result<()>> + Send;

    /// Makes the broker confirm each message. The reply arrives after all messages that were returned before.
    fn select_confirms(&self) -> impl Future<Output = lapin::Result<()>> + Send;

    /// Publishes a mandatory message. The returned future resolves with its confirm. Messages are written in the order
    /// in which their futures are polled first, and only one task may do that.
    fn publish(&self, publication: Publication) -> BoxFuture<'static, lapin::Result<Confirmation>>;

    fn close(&self) -> impl Future<Output = lapin::Result<()>> + Send;
}

/// The broker's reply to a message, and a returned message that arrived with it: this one or another one.
#[derive(Clone, Debug)]
pub struct Confirmation {
    pub acked: bool,
    pub returned: Option<MessageKey>,
}

/// Identifies a returned message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageKey {
    pub exchange: String,
    pub routing_key: String,
    pub message_id: Option<String>,
}

impl MessageKey {
    #[must_use]
    pub fn of(exchange: &str, routing_key: &str, properties: &BasicProperties) -> Self {
        let message_id = properties.message_id().as_ref().map(|id| id.as_str().to_owned());
        Self { exchange: exchange.to_owned(), routing_key: routing_key.to_owned(), message_id }
    }
}

/// The part of a connection that a consumer needs.
pub trait Subscribe: Peer + Send {
    /// Subscribes to `queue` with the given prefetch; `limit` applies to each reply of the broker. `name` shows in
    /// the broker's list of consumers.
    fn subscribe<'a>(
        &'a self,
        queue: &'a str,
        name: &'a str,
        prefetch: u16,
        limit: Duration,
    ) -> BoxFuture<'a, Result<Subscription, BrokerError>>;
}

/// The deliveries of a subscription.
pub trait Deliveries: Send + Sync {
    /// Waits for the next delivery. Cancel-safe.
    fn next(&mut self) -> BoxFuture<'_, Result<Delivery, BrokerError>>;

    /// Returns an error if the channel is closed.
    fn check(&self) -> Result<(), BrokerError>;

    /// Cancels the subscription. Returns the deliveries that had arrived and were not taken.
    fn cancel(self: Box<Self>, limit: Duration) -> BoxFuture<'static, Result<Vec<Delivery>, BrokerError>>;
}

/// The ways to settle a delivery. Each returns `false` if the broker has already taken the delivery back; `limit`
/// applies to writing the frame.
pub trait Settle: fmt::Debug + Send + Sync {
    /// True if the delivery still belongs to this worker and is not settled.
    fn usable(&self) -> bool;

    /// Acknowledges the delivery.
    fn ack(&self, limit: Duration) -> BoxFuture<'_, Result<bool, BrokerError>>;

    /// Requeues the delivery. RabbitMQ 4.3 and later does not count it towards the delivery limit.
    fn requeue(&self, limit: Duration) -> BoxFuture<'_, Result<bool, BrokerError>>;

    /// Requeues the delivery so that every RabbitMQ version counts it towards the delivery limit. A message that fails
    /// each time then reaches the limit.
    fn requeue_counted(&self, limit: Duration) -> BoxFuture<'_, Result<bool, BrokerError>>;
}

/// One delivery, split into its parts.
pub struct Delivery {
    pub body: Vec<u8>,
    pub properties: BasicProperties,
    /// The broker has delivered the message before, and it was not acknowledged.
    pub redelivered: bool,
    /// Settles the delivery.
    pub receipt: Receipt,
}
