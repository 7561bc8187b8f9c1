//! The broker's interfaces ([`super::port`]), implemented with lapin.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use lapin::{
    Acker, Channel, Consumer as LapinConsumer, ExchangeKind,
    message::BasicReturnMessage,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions,
        BasicQosOptions, BasicRejectOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};

use super::{
    connection::{self, BrokerError, Connected, Connector, within},
    port::{
        Broker, BrokerChannel, BrokerConnection, Confirmation, ConnectionLimits, Deliveries, Delivery,
        MessageKey, Peer, Settle, Subscribe, Subscription,
    },
    properties::short,
    publisher::Publication,
    topology::{Argument, Binding, Depth, Exchange},
};
use crate::fault;

impl Broker for Connector {
    type Connection = Connected;

    fn limits(&self) -> ConnectionLimits {
        self.limits
    }

    async fn connect(&self, purpose: &str) -> Result<Connected, BrokerError> {
        Self::connect(self, purpose).await
    }
}

impl Peer for Connected {
    fn is_gone(&self) -> bool {
        !self.status().connected()
    }
}

impl Peer for Channel {
    fn is_gone(&self) -> bool {
        !self.status().connected()
    }
}

impl Peer for Acker {
    fn is_gone(&self) -> bool {
        self.poisoned()
    }
}

impl BrokerConnection for Connected {
    type Channel = Channel;

    fn is_blocked(&self) -> bool {
        self.status().blocked()
    }

    async fn open_channel(&self) -> lapin::Result<Channel> {
        self.create_channel().await
    }

    async fn close(&self) {
        connection::close(self).await;
    }
}

impl BrokerChannel for Channel {
    async fn declare_exchange(&self, exchange: &Exchange, passive: bool) -> lapin::Result<()> {
        let options = ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
        let name = short(&exchange.name);
        self.exchange_declare(name, ExchangeKind::Topic, options, FieldTable::default()).await
    }

    async fn declare_queue(
        &self,
        name: &str,
        arguments: &[(&'static str, Argument)],
        passive: bool,
    ) -> lapin::Result<Depth> {
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            let value = match value {
                Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
                Argument::Number(number) => AMQPValue::LongInt(*number),
            };
            table.insert((*name).into(), value);
        }
        let options = QueueDeclareOptions { passive, durable: true, ..QueueDeclareOptions::default() };
        let queue = self.queue_declare(short(name), options, table).await?;
        Ok(Depth { ready: queue.message_count(), consumers: queue.consumer_count() })
    }

    async fn bind(&self, binding: &Binding) -> lapin::Result<()> {
        let (queue, exchange) = (short(&binding.queue), short(&binding.exchange));
        let (key, options) = (binding.routing_key.into(), QueueBindOptions::default());
        self.queue_bind(queue, exchange, key, options, FieldTable::default()).await
    }

    async fn select_confirms(&self) -> lapin::Result<()> {
        self.confirm_select(ConfirmSelectOptions::default()).await
    }

    fn publish(&self, publication: Publication) -> BoxFuture<'static, lapin::Result<Confirmation>> {
        let channel = self.clone();
        Box::pin(async move {
            let Publication { exchange, routing_key, properties, body } = publication;
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let (exchange, routing_key) = (short(&exchange), short(&routing_key));
            let publish = channel.basic_publish(exchange, routing_key, options, &body, properties);
            // lapin numbers the message and queues its frames at the first poll, and is ready when they are written.
            let confirm = publish.await?;
            fault::point("publish", "sent");
            confirm.await.map(confirmed)
        })
    }

    async fn close(&self) -> lapin::Result<()> {
        Self::close(self, 200, "bye".into()).await
    }
}

fn confirmed(confirmation: lapin::Confirmation) -> Confirmation {
    let (acked, returned) = match confirmation {
        lapin::Confirmation::Ack(returned) => (true, returned),
        lapin::Confirmation::Nack(returned) => (false, returned),
        // Occurs only without confirms, and they are always selected.
        lapin::Confirmation::NotRequested => (false, None),
    };
    Confirmation { acked, returned: returned.as_ref().map(returned_key) }
}

fn returned_key(returned: &BasicReturnMessage) -> MessageKey {
    MessageKey::of(returned.exchange.as_str(), returned.routing_key.as_str(), &returned.properties)
}

/// A subscription with its own channel.
struct Consuming {
    channel: Channel,
    tag: ShortString,
    deliveries: LapinConsumer,
    queue: String,
}

/// A delivery of a channel. The channel stays open until its last delivery is dropped.
#[derive(Debug)]
struct ChannelReceipt {
    channel: Channel,
    tag: u64,
    /// Knows if the broker has taken the delivery back. It settles by way of two more tasks of lapin, the channel by none.
    acker: Acker,
    settled: AtomicBool,
}

impl Subscribe for Connected {
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
        connection: &Connected,
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
        let receipt = Arc::new(ChannelReceipt {
            channel: channel.clone(),
            tag: delivery.delivery_tag,
            acker: delivery.acker,
            settled: AtomicBool::new(false),
        });
        let redelivered = delivery.redelivered;
        Self { body: delivery.data, properties: delivery.properties, redelivered, receipt }
    }
}

impl ChannelReceipt {
    /// Settles the delivery with `settle`, unless it was settled before or the broker has taken it back.
    async fn settle(
        &self,
        step: &'static str,
        limit: Duration,
        settle: impl Future<Output = lapin::Result<()>>,
    ) -> Result<bool, BrokerError> {
        if self.acker.poisoned() || self.settled.swap(true, Ordering::Relaxed) {
            return Ok(false);
        }
        within(step, limit, &self.acker, settle).await.map(|()| true)
    }
}

impl Settle for ChannelReceipt {
    fn usable(&self) -> bool {
        self.acker.usable() && !self.settled.load(Ordering::Relaxed)
    }

    fn ack(&self, limit: Duration) -> BoxFuture<'_, Result<bool, BrokerError>> {
        let ack = self.channel.basic_ack(self.tag, BasicAckOptions::default());
        Box::pin(self.settle("acknowledge", limit, ack))
    }

    fn requeue(&self, limit: Duration) -> BoxFuture<'_, Result<bool, BrokerError>> {
        let options = BasicNackOptions { requeue: true, multiple: false };
        Box::pin(self.settle("requeue", limit, self.channel.basic_nack(self.tag, options)))
    }

    fn requeue_counted(&self, limit: Duration) -> BoxFuture<'_, Result<bool, BrokerError>> {
        let options = BasicRejectOptions { requeue: true };
        Box::pin(self.settle("requeue", limit, self.channel.basic_reject(self.tag, options)))
    }
}
