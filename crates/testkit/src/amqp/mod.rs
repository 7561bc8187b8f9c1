//! A plain AMQP client, which shares no code with the program.
//!
//! - `deliveries`: received messages, and the consumer of a queue

mod deliveries;

use std::sync::Arc;

use futures_util::{StreamExt as _, stream::SelectAll};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    message::BasicGetMessage,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions,
        BasicRejectOptions, ConfirmSelectOptions, ExchangeDeleteOptions, QueueBindOptions,
        QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};

pub use deliveries::{Deliveries, Received};

use crate::{poll, soon};
use deliveries::HeaderTexts;

/// Maximum number of outstanding confirms.
const OUTSTANDING: usize = 500;

/// A connection with a channel for publishing.
pub struct Amqp {
    connection: Connection,
    channel: Channel,
    header_texts: HeaderTexts,
}

impl Amqp {
    /// Connects. Without a broker, the test fails with advice.
    pub async fn connect(url: &str) -> Self {
        let address = url.rsplit('@').next().unwrap_or_default();
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap_or_else(|error| {
            panic!("no broker at {address} ({error}): run `make test`, which brings one, or set ICW_AMQP__URL to yours")
        });
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { connection, channel, header_texts: HeaderTexts::default() }
    }

    /// The program's headers of all messages that this client received.
    pub fn header_texts(&self) -> String {
        self.header_texts.lock().unwrap().clone()
    }

    /// Publishes a message and waits for its confirm; it must be routed.
    pub async fn publish(&self, exchange: &str, routing_key: &str, properties: BasicProperties, body: &[u8]) {
        self.publish_all(exchange, routing_key, [(properties, body.to_vec())]).await;
    }

    /// Publishes all messages and waits for their confirms; they must be routed.
    pub async fn publish_all(
        &self,
        exchange: &str,
        routing_key: &str,
        messages: impl IntoIterator<Item = (BasicProperties, Vec<u8>)>,
    ) {
        let mut confirms = Vec::new();
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let mut messages = messages.into_iter().peekable();
        while let Some((properties, body)) = messages.next() {
            let publish =
                self.channel.basic_publish(exchange.into(), routing_key.into(), options, &body, properties);
            confirms.push(publish.await.unwrap());
            if confirms.len() == OUTSTANDING || messages.peek().is_none() {
                for confirm in confirms.drain(..) {
                    let confirmed = soon("a confirm", confirm).await.unwrap();
                    assert!(matches!(confirmed, Confirmation::Ack(None)), "{exchange} {routing_key}");
                }
            }
        }
    }

    /// Consumes an existing queue.
    pub async fn consume(&self, queue: &str) -> Deliveries {
        let channel = self.connection.create_channel().await.unwrap();
        channel.basic_qos(500, BasicQosOptions::default()).await.unwrap();
        let consumer = channel
            .basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await
            .unwrap();
        let header_texts = Arc::clone(&self.header_texts);
        Deliveries::new(queue, consumer, header_texts, channel)
    }

    /// Removes the first message of a queue.
    pub async fn get(&self, queue: &str) -> (BasicProperties, Vec<u8>) {
        let first = self.first(queue).await;
        first.acker.ack(BasicAckOptions::default()).await.unwrap();
        (first.delivery.properties, first.delivery.data)
    }

    /// Rejects the first message of a queue without requeue.
    pub async fn reject_first(&self, queue: &str) {
        let first = self.first(queue).await;
        first.acker.reject(BasicRejectOptions { requeue: false }).await.unwrap();
    }

    /// Requeues the first message of a queue, if there is one.
    pub async fn requeue_first(&self, queue: &str) {
        if let Some(first) = self.channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap() {
            first.acker.reject(BasicRejectOptions { requeue: true }).await.unwrap();
        }
    }

    async fn first(&self, queue: &str) -> BasicGetMessage {
        let get = async || self.channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap();
        poll(&format!("a message in {queue}"), get).await
    }

    /// Reads all ready messages of a queue and requeues them.
    pub async fn read_all(&self, queue: &str) -> Vec<Received> {
        let (ready, _) = self.depth(queue).await.unwrap();
        let channel = self.connection.create_channel().await.unwrap();
        // A quorum queue treats an unlimited prefetch as 2000.
        channel.basic_qos(50_000, BasicQosOptions::default()).await.unwrap();
        let mut consumers = SelectAll::new();
        for _ in 0..=ready / 50_000 {
            let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
            consumers.push(channel.basic_consume(queue.into(), "".into(), options, table).await.unwrap());
        }
        let mut all = Vec::new();
        while all.len() < ready as usize {
            let delivery = soon(queue, consumers.next()).await.expect("the queue exists").unwrap();
            all.push(delivery.into());
        }
        channel.close(200, "done".into()).await.unwrap();
        poll(queue, async || (self.depth(queue).await?.0 >= ready).then_some(())).await;
        all
    }

    /// Consumes a new queue that gets the messages of `exchange` with `routing_keys` from now on.
    pub async fn tap(&self, exchange: &str, routing_keys: &[&str]) -> Deliveries {
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let queue = self
            .channel
            .queue_declare("".into(), options, FieldTable::default())
            .await
            .unwrap()
            .name()
            .clone();
        for routing_key in routing_keys {
            self.channel
                .queue_bind(
                    queue.clone(),
                    exchange.into(),
                    (*routing_key).into(),
                    QueueBindOptions::default(),
                    FieldTable::default(),
                )
                .await
                .unwrap();
        }
        self.consume(queue.as_str()).await
    }

    /// Publishes to a queue until the broker refuses. Returns the number of stored messages.
    pub async fn fill(&self, queue: &str) -> usize {
        for taken in 0.. {
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let properties = with_id(&format!("filler-{taken}"));
            let publish = self.channel.basic_publish("".into(), queue.into(), options, b"filler", properties);
            match soon("a confirm", publish.await.unwrap()).await.unwrap() {
                Confirmation::Nack(None) => return taken,
                confirmed => assert!(matches!(confirmed, Confirmation::Ack(None)), "{queue}"),
            }
        }
        unreachable!("a queue with a limit")
    }

    /// Creates a binding.
    pub async fn bind(&self, queue: &str, exchange: &str, routing_key: &str) {
        let (options, table) = (QueueBindOptions::default(), FieldTable::default());
        self.channel
            .queue_bind(queue.into(), exchange.into(), routing_key.into(), options, table)
            .await
            .unwrap();
    }

    /// Removes a binding.
    pub async fn unbind(&self, queue: &str, exchange: &str, routing_key: &str) {
        let table = FieldTable::default();
        self.channel.queue_unbind(queue.into(), exchange.into(), routing_key.into(), table).await.unwrap();
    }

    /// Declares a durable queue with these arguments.
    pub async fn declare(&self, queue: &str, arguments: &[(&'static str, AMQPValue)]) {
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            table.insert((*name).into(), value.clone());
        }
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.into(), options, table).await.unwrap();
    }

    /// The numbers of ready messages and consumers of a queue; `None` if the queue does not exist.
    pub async fn depth(&self, queue: &str) -> Option<(u32, u32)> {
        // A separate channel, because a missing queue closes it.
        let channel = self.connection.create_channel().await.unwrap();
        let options = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await.ok()?;
        let depth = (declared.message_count(), declared.consumer_count());
        _ = channel.close(200, "done".into()).await;
        Some(depth)
    }

    /// Waits until a queue has neither consumers nor messages. Unacked messages have returned by then.
    pub async fn until_unused_and_empty(&self, queue: &str) {
        let what = format!("{queue} to have no message and no consumer");
        poll(&what, async || (self.depth(queue).await? == (0, 0)).then_some(())).await;
    }

    /// Deletes queues with their messages.
    pub async fn delete_queues(&self, queues: impl IntoIterator<Item = &str>) {
        for queue in queues {
            self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
        }
    }

    /// Deletes exchanges.
    pub async fn delete_exchanges(&self, exchanges: impl IntoIterator<Item = &str>) {
        for exchange in exchanges {
            self.channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await.unwrap();
        }
    }
}

/// Properties with only a `message_id`.
pub fn with_id(message_id: &str) -> BasicProperties {
    BasicProperties::default().with_message_id(message_id.into())
}

/// A table of text headers.
pub fn headers(pairs: &[(&str, &str)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert((*name).into(), AMQPValue::LongString((*value).into()));
    }
    table
}
