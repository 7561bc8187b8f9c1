//! Subscribing to queues and settling deliveries: the part of AMQP that the consumer and the settler need, as
//! interfaces, and their implementation with lapin.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use lapin::{
    Acker, BasicProperties, Channel, Connection, Consumer as LapinConsumer,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
        BasicRejectOptions,
    },
    types::{FieldTable, ShortString},
};

use super::{
    connection::{BrokerError, within},
    properties::short,
};

/// A connection on which deliveries arrive.
pub type Source<'a> = &'a dyn Subscribe;
/// A subscription to one queue.
pub type Subscription = Box<dyn Deliveries>;
/// Settles one delivery, once.
pub type Receipt = Arc<dyn Settle>;

/// The part of a connection that a consumer needs.
pub trait Subscribe: Send + Sync {
    /// True if the connection is open.
    fn connected(&self) -> bool;

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
    pub(crate) body: Vec<u8>,
    pub(crate) properties: BasicProperties,
    /// The broker has delivered the message before, and it was not acknowledged.
    pub(crate) redelivered: bool,
    /// Settles the delivery.
    pub(crate) receipt: Receipt,
}

/// A subscription with its own channel.
struct Consuming {
    channel: Channel,
    tag: ShortString,
    deliveries: LapinConsumer,
    queue: String,
}

/// A delivery of a channel.
#[derive(Debug)]
struct ChannelReceipt {
    acker: Acker,
    /// Keeps the channel open until its last delivery is dropped.
    _channel: Channel,
}

impl Subscribe for Connection {
    fn connected(&self) -> bool {
        self.status().connected()
    }

    fn subscribe<'a>(
        &'a self,
        queue: &'a str,
        name: &'a str,
        prefetch: u16,
        limit: Duration,
    ) -> BoxFuture<'a, Result<Subscription, BrokerError>> {
        Box::pin(async move {
            let consuming = Consuming::begin(self, queue, name, prefetch, limit).await?;
            Ok(Box::new(consuming) as Subscription)
        })
    }
}

impl Consuming {
    async fn begin(
        connection: &Connection,
        queue: &str,
        name: &str,
        prefetch: u16,
        limit: Duration,
    ) -> Result<Self, BrokerError> {
        let channel = within("open channel", limit, connection, connection.create_channel()).await?;
        within("set prefetch", limit, &channel, channel.basic_qos(prefetch, BasicQosOptions::default()))
            .await?;
        let tag = short(name);
        let options = BasicConsumeOptions::default();
        let consume = channel.basic_consume(short(queue), tag.clone(), options, FieldTable::default());
        let deliveries = within("consume", limit, &channel, consume).await?;
        Ok(Self { channel, tag, deliveries, queue: queue.to_owned() })
    }
}

impl Deliveries for Consuming {
    fn next(&mut self) -> BoxFuture<'_, Result<Delivery, BrokerError>> {
        Box::pin(async move {
            match self.deliveries.next().await {
                Some(Ok(delivery)) => Ok(Delivery::new(delivery, &self.channel)),
                Some(Err(error)) => Err(BrokerError::Lapin("consume", error)),
                None => Err(BrokerError::Ended(format!(
                    "the broker ended the consumer of {}; was the queue deleted?",
                    self.queue
                ))),
            }
        })
    }

    fn check(&self) -> Result<(), BrokerError> {
        if self.channel.status().connected() {
            Ok(())
        } else {
            Err(BrokerError::Ended(format!("the channel of {} was closed", self.queue)))
        }
    }

    fn cancel(
        mut self: Box<Self>,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Vec<Delivery>, BrokerError>> {
        Box::pin(async move {
            let cancel = self.channel.basic_cancel(self.tag.clone(), BasicCancelOptions::default());
            within("cancel", limit, &self.channel, cancel).await?;
            // Everything that the broker delivered before its reply has arrived by now.
            let mut left = Vec::new();
            while let Some(Some(Ok(delivery))) = self.deliveries.next().now_or_never() {
                left.push(Delivery::new(delivery, &self.channel));
            }
            Ok(left)
        })
    }
}

impl Delivery {
    fn new(delivery: lapin::message::Delivery, channel: &Channel) -> Self {
        let receipt = Arc::new(ChannelReceipt { acker: delivery.acker, _channel: channel.clone() });
        let redelivered = delivery.redelivered;
        Self { body: delivery.data, properties: delivery.properties, redelivered, receipt }
    }
}

impl Settle for ChannelReceipt {
    fn usable(&self) -> bool {
        self.acker.usable()
    }

    fn ack(&self, limit: Duration) -> BoxFuture<'_, Result<bool, BrokerError>> {
        let ack = self.acker.ack(BasicAckOptions::default());
        Box::pin(within("acknowledge", limit, &self.acker, ack))
    }

    fn requeue(&self, limit: Duration) -> BoxFuture<'_, Result<bool, BrokerError>> {
        let nack = self.acker.nack(BasicNackOptions { requeue: true, multiple: false });
        Box::pin(within("requeue", limit, &self.acker, nack))
    }

    fn requeue_counted(&self, limit: Duration) -> BoxFuture<'_, Result<bool, BrokerError>> {
        let reject = self.acker.reject(BasicRejectOptions { requeue: true });
        Box::pin(within("requeue", limit, &self.acker, reject))
    }
}
