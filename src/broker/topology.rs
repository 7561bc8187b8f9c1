//! Exchanges, queues and bindings, named as the contract says.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lapin::{
    Channel, Connection, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    connection::{BrokerError, Reason, within},
    properties::short,
};
use crate::{
    contract::stage::{QueueDef, StageDef, queues},
    masking::masked,
    values::{Bounded, Prefix},
};

/// Deliveries of one message before the broker itself dead-letters it. This program dead-letters a message that kills
/// workers much sooner. This higher limit replaces RabbitMQ 4's default of 20, which a few restarts could use up.
const DELIVERY_LIMIT: i32 = 100;
/// Suffix of the name of a replay queue.
pub(super) const REPLAY: &str = ".replay";

/// Section `topology`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct TopologyConfig {
    /// Prefix of all names.
    pub prefix: Prefix,
    /// Declaration of what is missing.
    pub declare: Declare,
    /// Maximum length of each queue.
    pub queue_length_max: Bounded<1, 2_147_483_647>,
}

/// `topology.declare`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Declare {
    /// Declare missing exchanges, queues and bindings.
    Create,
    /// Verify that exchanges and queues exist.
    Check,
    /// Neither declare nor verify.
    Off,
}

/// The names of this worker's exchanges and queues.
#[derive(Clone, Debug)]
pub struct Topology {
    stages: Arc<[&'static StageDef]>,
    prefix: String,
    declare: Declare,
    queue_length_max: u32,
    delays: Vec<Duration>,
    /// The broker's topology was declared or verified. Shared by all clones.
    verified: Arc<AtomicBool>,
    /// Number of times that something missing was redeclared. Shared by all clones.
    redeclared: Arc<watch::Sender<u64>>,
}

/// An exchange of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exchange {
    pub name: String,
    /// Always `topic`.
    #[serde(rename = "type")]
    pub kind: &'static str,
}

/// A queue of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Queue {
    pub name: String,
    /// The `x-` arguments.
    pub arguments: Vec<(&'static str, Argument)>,
}

impl Queue {
    /// True for a replay queue. Only `dead replay` needs it, and reports it if it is missing.
    #[must_use]
    pub fn is_replay(&self) -> bool {
        self.name.ends_with(REPLAY)
    }
}

/// The value of an `x-` argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Argument {
    Text(String),
    Number(i32),
}

/// A binding of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Binding {
    pub exchange: String,
    pub routing_key: &'static str,
    pub queue: String,
}

/// All exchanges, queues and bindings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopologyPlan {
    pub exchanges: Vec<Exchange>,
    pub queues: Vec<Queue>,
    pub bindings: Vec<Binding>,
}

/// The counts of a queue in the broker's reply to a declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Messages ready for delivery.
    pub ready: u32,
    pub consumers: u32,
}

/// A topology that could not be declared or verified.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The broker's topology differs from the plan. Only an operator can change that.
    #[error("{}", masked(.0))]
    Mismatch(String),
    /// The request to the broker failed.
    #[error(transparent)]
    Broker(BrokerError),
}

impl TopologyError {
    /// The kind of this error.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Mismatch(_) => Reason::Topology,
            Self::Broker(error) => error.reason(),
        }
    }
}

impl Topology {
    /// Creates the names for `config` and `stages`, whose queues have a delay queue for each of `delays`.
    #[must_use]
    pub fn new(config: &TopologyConfig, stages: &[&'static StageDef], delays: &[Duration]) -> Self {
        Self {
            stages: stages.into(),
            prefix: config.prefix.as_str().to_owned(),
            declare: config.declare,
            queue_length_max: config.queue_length_max.get(),
            delays: delays.to_vec(),
            verified: Arc::default(),
            redeclared: Arc::new(watch::Sender::new(0)),
        }
    }

    /// The exchange `name`, with the prefix.
    #[must_use]
    pub fn exchange(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// The name of `queue`, with the prefix.
    #[must_use]
    pub fn queue(&self, queue: &QueueDef) -> String {
        format!("{}.{}", self.prefix, queue.name)
    }

    /// The dead queue of `queue`.
    #[must_use]
    pub fn dead_queue(queue: &str) -> String {
        format!("{queue}.dead")
    }

    /// The delay queue in which messages of `queue` wait for `delay`.
    #[must_use]
    pub fn delay_queue(queue: &str, delay: Duration) -> String {
        format!("{queue}.hold.{}", delay.as_millis())
    }

    /// The queue through which dead letters return to `queue`.
    #[must_use]
    pub fn replay_queue(queue: &str) -> String {
        format!("{queue}{REPLAY}")
    }

    /// True if this program declares what is missing.
    #[must_use]
    pub fn creates(&self) -> bool {
        self.declare == Declare::Create
    }

    /// The delays of the delay queues, ascending.
    #[must_use]
    pub fn delays(&self) -> &[Duration] {
        &self.delays
    }

    /// Everything that this program declares.
    #[must_use]
    pub fn plan(&self) -> TopologyPlan {
        let work: Vec<_> = queues(&self.stages).collect();
        let bindings: Vec<_> = work
            .iter()
            .flat_map(|queue| queue.bindings.iter().map(move |binding| (*queue, binding)))
            .collect();
        let mut exchanges = Vec::new();
        for (_, (exchange, _)) in &bindings {
            let exchange = Exchange { name: self.exchange(exchange), kind: "topic" };
            if !exchanges.contains(&exchange) {
                exchanges.push(exchange);
            }
        }
        // A queue that dead-letters comes after the one it dead-letters to.
        let mut queues: Vec<_> = (work.iter().map(|queue| self.queue(queue)))
            .flat_map(|name| [self.dead(&name), self.work(&name), self.replay(&name)])
            .collect();
        // Only queues that this program consumes have delay queues.
        for stage in self.stages.iter() {
            let name = self.queue(stage.queue);
            queues.extend(self.delays.iter().map(|delay| self.delay(&name, *delay)));
        }
        let bindings = bindings.into_iter().map(|(queue, &(exchange, routing_key))| Binding {
            exchange: self.exchange(exchange),
            routing_key,
            queue: self.queue(queue),
        });
        TopologyPlan { exchanges, queues, bindings: bindings.collect() }
    }

    fn bounded(&self) -> Vec<(&'static str, Argument)> {
        let length_max = i32::try_from(self.queue_length_max).unwrap_or(i32::MAX);
        vec![
            ("x-queue-type", Argument::Text("quorum".to_owned())),
            ("x-overflow", Argument::Text("reject-publish".to_owned())),
            ("x-max-length", Argument::Number(length_max)),
        ]
    }

    /// A work queue. The broker drops none of its messages: it dead-letters them at least once. RabbitMQ requires
    /// this overflow mode and length for that ("Quorum Queues: at-least-once dead-lettering" in its manual).
    fn work(&self, name: &str) -> Queue {
        let mut arguments = self.bounded();
        arguments.push(("x-delivery-limit", Argument::Number(DELIVERY_LIMIT)));
        arguments.extend(dead_letter_to(Self::dead_queue(name)));
        Queue { name: name.to_owned(), arguments }
    }

    /// A delay queue, which returns every message to the queue `name` after `delay`. All messages of a queue have the
    /// same delay: with a delay for each message, one would wait behind another.
    fn delay(&self, name: &str, delay: Duration) -> Queue {
        let mut arguments = self.bounded();
        arguments
            .push(("x-message-ttl", Argument::Number(i32::try_from(delay.as_millis()).unwrap_or(i32::MAX))));
        arguments.extend(dead_letter_to(name.to_owned()));
        Queue { name: Self::delay_queue(name, delay), arguments }
    }

    /// A replay queue, which returns a message to the queue `name` when it is rejected, and otherwise keeps it: see
    /// [`crate::dead`].
    fn replay(&self, name: &str) -> Queue {
        let mut arguments = self.bounded();
        arguments.push(("x-delivery-limit", Argument::Number(i32::MAX)));
        arguments.extend(dead_letter_to(name.to_owned()));
        Queue { name: Self::replay_queue(name), arguments }
    }

    /// A dead queue, which only people empty. Looking at a message must never use up its deliveries.
    fn dead(&self, name: &str) -> Queue {
        let mut arguments = self.bounded();
        arguments.push(("x-delivery-limit", Argument::Number(i32::MAX)));
        Queue { name: Self::dead_queue(name), arguments }
    }

    /// Declares, verifies or ignores the topology, as `topology.declare` says; `limit` applies to each reply. A
    /// topology that was found correct is not requested again at each new connection. A cluster that lost a node may
    /// take a minute to answer a declaration, and serves its queues meanwhile.
    ///
    /// # Errors
    /// [`TopologyError`], which names the exchange or queue and the argument.
    pub async fn ensure(&self, connection: &Connection, limit: Duration) -> Result<(), TopologyError> {
        let passive = match self.declare {
            Declare::Off => return Ok(()),
            Declare::Create => false,
            Declare::Check => true,
        };
        if !self.verified.load(Ordering::Relaxed) {
            self.declare(connection, passive, limit).await?;
            self.verified.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes the next [`Topology::ensure`] declare or verify again. Callers use it after an error on a connection
    /// that is still open: a queue or an exchange may be missing.
    pub fn invalidate(&self) {
        self.verified.store(false, Ordering::Relaxed);
    }

    /// Notifies all consumers that a missing queue or binding was redeclared. A queue of the same name may be a new
    /// one, and the broker does not always notify the consumers of the old one.
    pub(super) fn notify_redeclared(&self) {
        self.redeclared.send_modify(|times| *times += 1);
    }

    /// Changes with each [`Topology::notify_redeclared`].
    pub(super) fn redeclared(&self) -> watch::Receiver<u64> {
        self.redeclared.subscribe()
    }

    /// Declares the queue `name`, or only verifies that it exists if `passive`. Returns its number of ready messages
    /// and consumers. If the queue exists, declaring compares its arguments.
    ///
    /// # Errors
    /// [`TopologyError`].
    pub async fn verify(
        &self,
        connection: &Connection,
        name: &str,
        passive: bool,
        limit: Duration,
    ) -> Result<Depth, TopologyError> {
        // On its own channel, because a refusal closes it.
        let channel = within("open channel", limit, connection, connection.create_channel())
            .await
            .map_err(TopologyError::Broker)?;
        let planned = self.plan().queues.into_iter().find(|queue| queue.name == name);
        let queue = planned.unwrap_or(Queue { name: name.to_owned(), arguments: Vec::new() });
        let depth = declare_queue(&channel, &queue, passive, limit)
            .await
            .map_err(|error| explain(error, "queue", name))?;
        _ = within("close channel", limit, connection, channel.close(200, "done".into())).await;
        Ok(depth)
    }

    /// Declares everything, or only verifies that it exists if `passive`.
    ///
    /// # Errors
    /// [`TopologyError`].
    pub async fn declare(
        &self,
        connection: &Connection,
        passive: bool,
        limit: Duration,
    ) -> Result<(), TopologyError> {
        let channel = within("open channel", limit, connection, connection.create_channel())
            .await
            .map_err(TopologyError::Broker)?;
        let plan = self.plan();
        for exchange in &plan.exchanges {
            declare_exchange(&channel, exchange, passive, limit)
                .await
                .map_err(|error| explain(error, "exchange", &exchange.name))?;
        }
        let needed = |queue: &&Queue| !(passive && queue.is_replay());
        for queue in plan.queues.iter().filter(needed) {
            declare_queue(&channel, queue, passive, limit)
                .await
                .map_err(|error| explain(error, "queue", &queue.name))?;
        }
        for binding in plan.bindings.iter().filter(|_| !passive) {
            bind(&channel, binding, limit).await.map_err(|error| match error.reply_code() {
                // Queue and exchange were declared a moment ago, so somebody has just deleted one; the next attempt
                // redeclares it.
                Some(404) => TopologyError::Broker(error),
                _ => explain(error, "binding of queue", &binding.queue),
            })?;
        }
        // The channel is not used again. If it can't be closed, it ends with its connection.
        _ = within("close channel", limit, connection, channel.close(200, "done".into())).await;
        Ok(())
    }
}

fn dead_letter_to(queue: String) -> [(&'static str, Argument); 3] {
    [
        ("x-dead-letter-exchange", Argument::Text(String::new())),
        ("x-dead-letter-routing-key", Argument::Text(queue)),
        ("x-dead-letter-strategy", Argument::Text("at-least-once".to_owned())),
    ]
}

pub(crate) async fn declare_exchange(
    channel: &Channel,
    exchange: &Exchange,
    passive: bool,
    limit: Duration,
) -> Result<(), BrokerError> {
    let options = ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
    within(
        "declare exchange",
        limit,
        channel,
        channel.exchange_declare(short(&exchange.name), ExchangeKind::Topic, options, FieldTable::default()),
    )
    .await
}

pub(crate) async fn declare_queue(
    channel: &Channel,
    queue: &Queue,
    passive: bool,
    limit: Duration,
) -> Result<Depth, BrokerError> {
    let mut arguments = FieldTable::default();
    for (name, value) in &queue.arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Number(number) => AMQPValue::LongInt(*number),
        };
        arguments.insert((*name).into(), value);
    }
    let options = QueueDeclareOptions { passive, durable: true, ..QueueDeclareOptions::default() };
    within("declare queue", limit, channel, channel.queue_declare(short(&queue.name), options, arguments))
        .await
        .map(|queue| Depth { ready: queue.message_count(), consumers: queue.consumer_count() })
}

async fn bind(channel: &Channel, binding: &Binding, limit: Duration) -> Result<(), BrokerError> {
    let (queue, exchange) = (short(&binding.queue), short(&binding.exchange));
    within(
        "bind queue",
        limit,
        channel,
        channel.queue_bind(
            queue,
            exchange,
            binding.routing_key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        ),
    )
    .await
}

/// The argument that the broker's 406 names.
pub(crate) fn inequivalent(reply: &str) -> Option<&str> {
    reply.split("inequivalent arg '").nth(1)?.split('\'').next()
}

/// Adds the meaning of the broker's refusal and advice.
fn explain(error: BrokerError, kind: &str, name: &str) -> TopologyError {
    let reply = error.to_string();
    let mut text = format!("{kind} {name}: ");
    let hint = match error.reply_code() {
        Some(404) => {
            "does not exist; declare it with `instant-connect-worker topology --declare`, or set topology.declare = \"create\""
        }
        Some(406) => {
            if let Some(argument) = inequivalent(&reply) {
                _ = write!(text, "argument {argument} differs: ");
            }
            "it already exists with other arguments; delete it (when it is empty), change the setting behind the argument, or set topology.declare = \"check\""
        }
        Some(403) => {
            "permission denied; grant configure, write and read on the prefix, and write on amq.default; or let an administrator declare it and set topology.declare = \"check\""
        }
        _ => return TopologyError::Broker(error),
    };
    _ = write!(text, "{hint} (broker: {reply})");
    TopologyError::Mismatch(text)
}
