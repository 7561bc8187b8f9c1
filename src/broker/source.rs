//! Subscribing to queues and settling deliveries: the part of AMQP that the consumer and the settler need. Tests
//! replace the broker by the one of `simulation`.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::{
    Acker, BasicProperties, Channel, Connection, Consumer as Deliveries,
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
#[cfg(test)]
use crate::simulation::broker as simulated;

/// A connection on which deliveries arrive.
#[derive(Clone, Copy)]
pub struct Source<'a>(SourceKind<'a>);

#[derive(Clone, Copy)]
enum SourceKind<'a> {
    Broker(&'a Connection),
    #[cfg(test)]
    Simulated(&'a simulated::SimulatedConnection),
}

/// A subscription to one queue.
pub(super) enum Subscription {
    Broker(Box<Consuming>),
    #[cfg(test)]
    Simulated(simulated::SimulatedSubscription),
}

/// A subscription with its own channel.
pub(super) struct Consuming {
    channel: Channel,
    tag: ShortString,
    deliveries: Deliveries,
    queue: String,
}

/// One delivery, split into its parts.
pub(crate) struct Delivery {
    pub(crate) body: Vec<u8>,
    pub(crate) properties: BasicProperties,
    /// The broker has delivered the message before, and it was not acknowledged.
    pub(crate) redelivered: bool,
    /// Settles the delivery.
    pub(crate) receipt: Receipt,
}

/// Settles one delivery, once.
#[derive(Clone, Debug)]
pub struct Receipt(ReceiptKind);

#[derive(Clone, Debug)]
enum ReceiptKind {
    Broker {
        acker: Acker,
        /// Keeps the channel open until its last delivery is dropped.
        _channel: Channel,
    },
    #[cfg(test)]
    Simulated(simulated::SimulatedReceipt),
}

impl<'a> From<&'a Connection> for Source<'a> {
    fn from(connection: &'a Connection) -> Self {
        Self(SourceKind::Broker(connection))
    }
}

#[cfg(test)]
impl<'a> From<&'a simulated::SimulatedConnection> for Source<'a> {
    fn from(connection: &'a simulated::SimulatedConnection) -> Self {
        Self(SourceKind::Simulated(connection))
    }
}

#[cfg(test)]
impl From<simulated::SimulatedReceipt> for Receipt {
    fn from(receipt: simulated::SimulatedReceipt) -> Self {
        Self(ReceiptKind::Simulated(receipt))
    }
}

impl Source<'_> {
    /// True if the connection is open.
    pub(super) fn connected(self) -> bool {
        match self.0 {
            SourceKind::Broker(connection) => connection.status().connected(),
            #[cfg(test)]
            SourceKind::Simulated(connection) => connection.connected(),
        }
    }

    /// Subscribes to `queue` with the given prefetch; `limit` applies to each reply of the broker. `name` shows in
    /// the broker's list of consumers.
    pub(super) async fn subscribe(
        self,
        queue: &str,
        name: &str,
        prefetch: u16,
        limit: Duration,
    ) -> Result<Subscription, BrokerError> {
        match self.0 {
            SourceKind::Broker(connection) => {
                let consuming = Consuming::begin(connection, queue, name, prefetch, limit).await?;
                Ok(Subscription::Broker(Box::new(consuming)))
            }
            #[cfg(test)]
            SourceKind::Simulated(connection) => {
                connection.subscribe(queue, prefetch).await.map(Subscription::Simulated)
            }
        }
    }
}

impl Subscription {
    /// Waits for the next delivery. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Delivery, BrokerError> {
        match self {
            Self::Broker(consuming) => consuming.next().await,
            #[cfg(test)]
            Self::Simulated(subscription) => subscription.next().await,
        }
    }

    /// Returns an error if the channel is closed.
    pub(super) fn check(&self) -> Result<(), BrokerError> {
        match self {
            Self::Broker(consuming) => consuming.check(),
            #[cfg(test)]
            Self::Simulated(subscription) => subscription.check(),
        }
    }

    /// Cancels the subscription. Returns the deliveries that had arrived and were not taken.
    pub(super) async fn cancel(self, limit: Duration) -> Result<Vec<Delivery>, BrokerError> {
        match self {
            Self::Broker(consuming) => consuming.cancel(limit).await,
            #[cfg(test)]
            Self::Simulated(subscription) => subscription.cancel().await,
        }
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

    async fn next(&mut self) -> Result<Delivery, BrokerError> {
        match self.deliveries.next().await {
            Some(Ok(delivery)) => Ok(Delivery::new(delivery, &self.channel)),
            Some(Err(error)) => Err(BrokerError::Lapin("consume", error)),
            None => Err(BrokerError::Ended(format!(
                "the broker ended the consumer of {}; was the queue deleted?",
                self.queue
            ))),
        }
    }

    fn check(&self) -> Result<(), BrokerError> {
        if self.channel.status().connected() {
            Ok(())
        } else {
            Err(BrokerError::Ended(format!("the channel of {} was closed", self.queue)))
        }
    }

    async fn cancel(mut self, limit: Duration) -> Result<Vec<Delivery>, BrokerError> {
        let cancel = self.channel.basic_cancel(self.tag, BasicCancelOptions::default());
        within("cancel", limit, &self.channel, cancel).await?;
        // Everything that the broker delivered before its reply has arrived by now.
        let mut left = Vec::new();
        while let Some(Some(Ok(delivery))) = self.deliveries.next().now_or_never() {
            left.push(Delivery::new(delivery, &self.channel));
        }
        Ok(left)
    }
}

impl Delivery {
    fn new(delivery: lapin::message::Delivery, channel: &Channel) -> Self {
        let receipt = Receipt(ReceiptKind::Broker { acker: delivery.acker, _channel: channel.clone() });
        let redelivered = delivery.redelivered;
        Self { body: delivery.data, properties: delivery.properties, redelivered, receipt }
    }
}

impl Receipt {
    /// True if the delivery still belongs to this worker and is not settled.
    pub(super) fn usable(&self) -> bool {
        match &self.0 {
            ReceiptKind::Broker { acker, .. } => acker.usable(),
            #[cfg(test)]
            ReceiptKind::Simulated(receipt) => receipt.usable(),
        }
    }

    /// Acknowledges the delivery; `false` if the broker has already taken it back. `limit` applies to writing the
    /// frame.
    pub(super) async fn ack(&self, limit: Duration) -> Result<bool, BrokerError> {
        match &self.0 {
            ReceiptKind::Broker { acker, .. } => {
                within("acknowledge", limit, acker, acker.ack(BasicAckOptions::default())).await
            }
            #[cfg(test)]
            ReceiptKind::Simulated(receipt) => Ok(receipt.ack().await),
        }
    }

    /// Requeues the delivery, otherwise like [`Receipt::ack`]. RabbitMQ 4.3 and later does not count it towards the
    /// delivery limit.
    pub(super) async fn requeue(&self, limit: Duration) -> Result<bool, BrokerError> {
        match &self.0 {
            ReceiptKind::Broker { acker, .. } => {
                let options = BasicNackOptions { requeue: true, multiple: false };
                within("requeue", limit, acker, acker.nack(options)).await
            }
            #[cfg(test)]
            ReceiptKind::Simulated(receipt) => Ok(receipt.requeue().await),
        }
    }

    /// Requeues the delivery so that every RabbitMQ version counts it towards the delivery limit; otherwise like
    /// [`Receipt::ack`]. A message that fails each time then reaches the limit.
    pub(super) async fn requeue_counted(&self, limit: Duration) -> Result<bool, BrokerError> {
        match &self.0 {
            ReceiptKind::Broker { acker, .. } => {
                let options = BasicRejectOptions { requeue: true };
                within("requeue", limit, acker, acker.reject(options)).await
            }
            #[cfg(test)]
            ReceiptKind::Simulated(receipt) => Ok(receipt.requeue_counted().await),
        }
    }
}
