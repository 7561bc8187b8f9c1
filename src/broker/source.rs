//! Where deliveries come from and how they are settled, as little of AMQP as the consumer and the settler need. In tests
//! there is one more broker, the one of `simulation`.

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

/// A connection that deliveries come over.
#[derive(Clone, Copy)]
pub struct Source<'a>(SourceKind<'a>);

#[derive(Clone, Copy)]
enum SourceKind<'a> {
    Broker(&'a Connection),
    #[cfg(test)]
    Simulated(&'a simulated::SimulatedConnection),
}

/// What is delivered of one queue.
pub(super) enum Subscription {
    Broker(Box<Consuming>),
    #[cfg(test)]
    Simulated(simulated::SimulatedSubscription),
}

/// A channel of its own, for one queue.
pub(super) struct Consuming {
    channel: Channel,
    tag: ShortString,
    deliveries: Deliveries,
    queue: String,
}

/// One delivery, taken apart.
pub(crate) struct Delivery {
    /// As it came.
    pub(crate) body: Vec<u8>,
    /// As they came.
    pub(crate) properties: BasicProperties,
    /// The broker has delivered it before, and nothing came of it.
    pub(crate) redelivered: bool,
    /// Settles it.
    pub(crate) receipt: Receipt,
}

/// Settles one delivery, once.
#[derive(Clone, Debug)]
pub struct Receipt(ReceiptKind);

#[derive(Clone, Debug)]
enum ReceiptKind {
    Broker {
        acker: Acker,
        /// It lives as long as the last of its deliveries.
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
    /// Whether it stands.
    pub(super) fn connected(self) -> bool {
        match self.0 {
            SourceKind::Broker(connection) => connection.status().connected(),
            #[cfg(test)]
            SourceKind::Simulated(connection) => connection.connected(),
        }
    }

    /// Has `queue` delivered, `prefetch` at once, `limit` for each answer of the broker. `name` shows in its list of
    /// consumers.
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
    /// The next delivery. May be cancelled.
    pub(super) async fn next(&mut self) -> Result<Delivery, BrokerError> {
        match self {
            Self::Broker(consuming) => consuming.next().await,
            #[cfg(test)]
            Self::Simulated(subscription) => subscription.next().await,
        }
    }

    /// Nothing while its channel is open.
    pub(super) fn check(&self) -> Result<(), BrokerError> {
        match self {
            Self::Broker(consuming) => consuming.check(),
            #[cfg(test)]
            Self::Simulated(subscription) => subscription.check(),
        }
    }

    /// Has the broker deliver no more; what it delivered and nobody took.
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
        // All that was delivered before the broker's answer is here by now.
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
    /// Whether the delivery is still this worker's, and not settled.
    pub(super) fn usable(&self) -> bool {
        match &self.0 {
            ReceiptKind::Broker { acker, .. } => acker.usable(),
            #[cfg(test)]
            ReceiptKind::Simulated(receipt) => receipt.usable(),
        }
    }

    /// Acknowledges; `false` where the broker took the delivery back before. `limit` for this to be written.
    pub(super) async fn ack(&self, limit: Duration) -> Result<bool, BrokerError> {
        match &self.0 {
            ReceiptKind::Broker { acker, .. } => {
                within("acknowledge", limit, acker, acker.ack(BasicAckOptions::default())).await
            }
            #[cfg(test)]
            ReceiptKind::Simulated(receipt) => Ok(receipt.ack().await),
        }
    }

    /// Gives the delivery back to the queue, as it was; otherwise as [`Receipt::ack`]. From 4.3 on RabbitMQ does not count
    /// it among the deliveries without an outcome.
    pub(super) async fn requeue(&self, limit: Duration) -> Result<bool, BrokerError> {
        match &self.0 {
            ReceiptKind::Broker { acker, .. } => {
                let options = BasicNackOptions { requeue: true, multiple: false };
                within("give back", limit, acker, acker.nack(options)).await
            }
            #[cfg(test)]
            ReceiptKind::Simulated(receipt) => Ok(receipt.requeue().await),
        }
    }

    /// Gives the delivery back to the queue, as one without an outcome: every RabbitMQ counts it, so that there is an end to
    /// what fails each time. Otherwise as [`Receipt::ack`].
    pub(super) async fn requeue_counted(&self, limit: Duration) -> Result<bool, BrokerError> {
        match &self.0 {
            ReceiptKind::Broker { acker, .. } => {
                let options = BasicRejectOptions { requeue: true };
                within("give back", limit, acker, acker.reject(options)).await
            }
            #[cfg(test)]
            ReceiptKind::Simulated(receipt) => Ok(receipt.requeue_counted().await),
        }
    }
}
