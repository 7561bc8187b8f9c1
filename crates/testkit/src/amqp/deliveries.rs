//! Received messages, and the consumer of a queue.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex},
};

use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Consumer,
    message::Delivery,
    options::BasicAckOptions,
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;

use crate::soon;

/// The program's own headers of all received messages.
pub(super) type HeaderTexts = Arc<Mutex<String>>;

/// Headers with texts of the program.
const OURS: [&str; 9] = [
    "x-dead-class",
    "x-dead-reason",
    "x-dead-at",
    "x-attempts",
    "x-retry-reason",
    "x-first-failed-at",
    "x-not-before",
    "x-waited-ms",
    "traceparent",
];

/// A received message.
#[derive(Clone, Debug)]
pub struct Received {
    pub exchange: String,
    pub routing_key: String,
    pub properties: BasicProperties,
    pub body: Vec<u8>,
}

impl Received {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The property `message_id`.
    pub fn id(&self) -> String {
        self.properties.message_id().as_ref().unwrap().as_str().to_owned()
    }

    /// All headers.
    pub fn headers(&self) -> BTreeMap<String, AMQPValue> {
        let headers = self.properties.headers().as_ref();
        headers
            .into_iter()
            .flat_map(FieldTable::inner)
            .map(|(k, v)| (k.as_str().to_owned(), v.clone()))
            .collect()
    }

    /// A text header.
    pub fn header(&self, name: &str) -> String {
        match self.headers().get(name) {
            Some(AMQPValue::LongString(text)) => String::from_utf8(text.as_bytes().to_vec()).unwrap(),
            other => panic!("{name}: expected text, found {other:?}"),
        }
    }
}

impl From<Delivery> for Received {
    fn from(delivery: Delivery) -> Self {
        Self {
            exchange: delivery.exchange.as_str().to_owned(),
            routing_key: delivery.routing_key.as_str().to_owned(),
            properties: delivery.properties,
            body: delivery.data,
        }
    }
}

/// A consumer of one queue. Each message is acked when it is received.
pub struct Deliveries {
    queue: String,
    consumer: Consumer,
    header_texts: HeaderTexts,
    _channel: Channel,
}

impl Deliveries {
    pub(super) fn new(queue: &str, consumer: Consumer, header_texts: HeaderTexts, channel: Channel) -> Self {
        Self { queue: queue.to_owned(), consumer, header_texts, _channel: channel }
    }

    /// The next message.
    pub async fn next(&mut self) -> Received {
        let what = format!("a message on {}", self.queue);
        let delivery = soon(&what, self.consumer.next()).await.expect("the queue exists").unwrap();
        delivery.ack(BasicAckOptions::default()).await.unwrap();
        let received = Received::from(delivery);
        let ours = received.headers().into_iter().filter(|(name, _)| OURS.contains(&name.as_str()));
        for (name, value) in ours {
            let said = match value {
                AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
                other => format!("{other:?}"),
            };
            writeln!(self.header_texts.lock().unwrap(), "{name}: {said}").unwrap();
        }
        received
    }

    /// The next `count` messages.
    pub async fn take(&mut self, count: usize) -> Vec<Received> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            all.push(self.next().await);
        }
        all
    }
}
