//! Where deliveries come from and how they are settled, as little of AMQP as the consumer and the settler need.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::{
    Acker, BasicProperties, Channel, Connection, Consumer as Deliveries,
    options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};

use super::{
    connection::{BrokerError, within},
    properties::short,
};

/// A connection that deliveries come over.
#[derive(Clone, Copy)]
pub struct Source<'a>(&'a Connection);

/// What is delivered of one queue, over a channel of its own.
pub(super) struct Subscription {
    channel: Channel,
    tag: ShortString,
    deliveries: Deliveries,
    queue: String,
}

/// One delivery, taken apart.
pub(super) struct Delivery {
    /// As it came.
    pub(super) body: Vec<u8>,
    /// As they came.
    pub(super) properties: BasicProperties,
    /// Settles it.
    pub(super) receipt: Receipt,
}

/// Settles one delivery, once.
#[derive(Clone, Debug)]
pub struct Receipt {
    acker: Acker,
    /// The channel lives as long as the last of its deliveries.
    _channel: Channel,
}

impl<'a> From<&'a Connection> for Source<'a> {
    fn from(connection: &'a Connection) -> Self {
        Self(connection)
    }
}

impl Source<'_> {
    /// Whether it stands.
    pub(super) fn connected(self) -> bool {
        self.0.status().connected()
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
        let channel = within("open channel", limit, self.0, self.0.create_channel()).await?;
        within("set prefetch", limit, &channel, channel.basic_qos(prefetch, BasicQosOptions::default()))
            .await?;
        let tag = short(name);
        let options = BasicConsumeOptions::default();
        let consume = channel.basic_consume(short(queue), tag.clone(), options, FieldTable::default());
        let deliveries = within("consume", limit, &channel, consume).await?;
        Ok(Subscription { channel, tag, deliveries, queue: queue.to_owned() })
    }
}

impl Subscription {
    /// The next delivery. May be cancelled.
    pub(super) async fn next(&mut self) -> Result<Delivery, BrokerError> {
        let delivery = self.deliveries.next().await.ok_or_else(|| {
            BrokerError::Ended(format!(
                "the broker ended the consumer of {}; was the queue deleted?",
                self.queue
            ))
        })?;
        delivery
            .map(|delivery| self.taken_apart(delivery))
            .map_err(|error| BrokerError::Lapin("consume", error))
    }

    fn taken_apart(&self, delivery: lapin::message::Delivery) -> Delivery {
        Delivery {
            body: delivery.data,
            properties: delivery.properties,
            receipt: Receipt { acker: delivery.acker, _channel: self.channel.clone() },
        }
    }

    /// Nothing while its channel is open.
    pub(super) fn check(&self) -> Result<(), BrokerError> {
        if self.channel.status().connected() {
            Ok(())
        } else {
            Err(BrokerError::Ended(format!("the channel of {} was closed", self.queue)))
        }
    }

    /// Has the broker deliver no more; what it delivered and nobody took.
    pub(super) async fn cancel(mut self, limit: Duration) -> Result<Vec<Delivery>, BrokerError> {
        let cancel = self.channel.basic_cancel(self.tag.clone(), BasicCancelOptions::default());
        within("cancel", limit, &self.channel, cancel).await?;
        // All that was delivered before the broker's answer is here by now.
        let mut left = Vec::new();
        while let Some(Some(Ok(delivery))) = self.deliveries.next().now_or_never() {
            left.push(self.taken_apart(delivery));
        }
        Ok(left)
    }
}

impl Receipt {
    /// Whether the delivery is still this worker's, and not settled.
    pub(super) fn usable(&self) -> bool {
        self.acker.usable()
    }

    /// Acknowledges; `false` where the broker took the delivery back before. `limit` for this to be written.
    pub(super) async fn ack(&self, limit: Duration) -> Result<bool, BrokerError> {
        within("acknowledge", limit, &self.acker, self.acker.ack(BasicAckOptions::default())).await
    }

    /// Gives the delivery back to the queue, as it was; otherwise as [`Receipt::ack`].
    pub(super) async fn give_back(&self, limit: Duration) -> Result<bool, BrokerError> {
        let options = BasicNackOptions { requeue: true, multiple: false };
        within("give back", limit, &self.acker, self.acker.nack(options)).await
    }
}
