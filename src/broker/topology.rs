//! Exchanges, queues and bindings, as the contract names them.

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
use serde::Serialize;
use tokio::sync::watch;

use super::{
    connection::{BrokerError, Reason, within},
    properties::short,
};
use crate::{
    config::{self, Declare},
    masking::masked,
};

/// How often the broker itself may deliver a message before it dead-letters it. This program puts a message that
/// kills it aside much sooner; this is the net below, and it keeps RabbitMQ 4's default of 20 from counting a few
/// restarts against an event.
const DELIVERY_LIMIT: i32 = 100;
/// The last part of the name of a replay queue.
pub(super) const REPLAY: &str = ".replay";

/// The names of this worker's exchanges and queues.
#[derive(Clone, Debug)]
pub struct Topology {
    prefix: String,
    declare: Declare,
    queue_length_max: u32,
    delays: Vec<Duration>,
    /// For all clones.
    in_order: Arc<AtomicBool>,
    /// How often something that was missing was declared again; for all clones.
    declared_again: Arc<watch::Sender<u64>>,
}

/// One exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// Always `topic`.
    #[serde(rename = "type")]
    pub kind: &'static str,
}

/// One queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Its `x-` arguments.
    pub arguments: Vec<(&'static str, Argument)>,
}

impl Queue {
    /// Whether only `dead replay` needs it, which says so where it is missing.
    #[must_use]
    pub fn is_replay(&self) -> bool {
        self.name.ends_with(REPLAY)
    }
}

/// An `x-` argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Argument {
    /// Text.
    Text(String),
    /// A number.
    Number(i32),
}

/// One binding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Binding {
    /// From.
    pub exchange: String,
    /// With.
    pub routing_key: &'static str,
    /// To.
    pub queue: String,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopologyPlan {
    /// Exchanges.
    pub exchanges: Vec<Exchange>,
    /// Queues.
    pub queues: Vec<Queue>,
    /// Bindings.
    pub bindings: Vec<Binding>,
}

/// What a queue holds, as the broker tells whoever declares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Messages that nobody has taken.
    pub ready: u32,
    /// Consumers.
    pub consumers: u32,
}

/// Why the topology is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The broker has it otherwise: nothing but an operator's hand changes that.
    #[error("{}", masked(.0))]
    Mismatch(String),
    /// The broker did not answer.
    #[error(transparent)]
    Broker(BrokerError),
}

impl TopologyError {
    /// Its kind.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Mismatch(_) => Reason::Topology,
            Self::Broker(error) => error.reason(),
        }
    }
}

impl Topology {
    /// The names as `config` has them, with a hold queue for each of `delays`.
    #[must_use]
    pub fn new(config: &config::TopologyConfig, delays: &[Duration]) -> Self {
        Self {
            prefix: config.prefix.as_str().to_owned(),
            declare: config.declare,
            queue_length_max: config.queue_length_max.get(),
            delays: delays.to_vec(),
            in_order: Arc::default(),
            declared_again: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Where flows publish start events, with the key `session.start`.
    #[must_use]
    pub fn sessions_exchange(&self) -> String {
        format!("{}.sessions", self.prefix)
    }

    /// Where links go.
    #[must_use]
    pub fn links_exchange(&self) -> String {
        format!("{}.links", self.prefix)
    }

    /// What stage `link` takes from.
    #[must_use]
    pub fn sessions_queue(&self) -> String {
        format!("{}.sessions", self.prefix)
    }

    /// What senders of text messages take from.
    #[must_use]
    pub fn guests_queue(&self) -> String {
        format!("{}.guests", self.prefix)
    }

    /// What stage `host` takes from.
    #[must_use]
    pub fn hosts_queue(&self) -> String {
        format!("{}.hosts", self.prefix)
    }

    /// Where dead letters of `queue` go.
    #[must_use]
    pub fn dead_queue(queue: &str) -> String {
        format!("{queue}.dead")
    }

    /// Where messages of `queue` wait for `delay`.
    #[must_use]
    pub fn hold_queue(queue: &str, delay: Duration) -> String {
        format!("{queue}.hold.{}", delay.as_millis())
    }

    /// Where dead letters of `queue` are on their way back into it.
    #[must_use]
    pub fn replay_queue(queue: &str) -> String {
        format!("{queue}{REPLAY}")
    }

    /// Whether this program declares what is missing.
    #[must_use]
    pub fn creates(&self) -> bool {
        self.declare == Declare::Create
    }

    /// The delays of the hold queues, ascending.
    #[must_use]
    pub fn delays(&self) -> &[Duration] {
        &self.delays
    }

    /// Everything that is declared.
    #[must_use]
    pub fn plan(&self) -> TopologyPlan {
        let exchange = |name| Exchange { name, kind: "topic" };
        let binding = |exchange, routing_key, queue| Binding { exchange, routing_key, queue };
        let work = [self.sessions_queue(), self.guests_queue(), self.hosts_queue()];
        // A queue that dead-letters comes after the one it dead-letters to.
        let mut queues: Vec<_> =
            work.iter().flat_map(|name| [self.dead(name), self.work(name), self.replay(name)]).collect();
        // Only what this program itself takes from is held back by it.
        for name in [self.sessions_queue(), self.hosts_queue()] {
            queues.extend(self.delays.iter().map(|delay| self.hold(&name, *delay)));
        }
        TopologyPlan {
            exchanges: vec![exchange(self.sessions_exchange()), exchange(self.links_exchange())],
            queues,
            bindings: vec![
                binding(self.sessions_exchange(), "session.start", self.sessions_queue()),
                binding(self.links_exchange(), "guest.sms", self.guests_queue()),
                binding(self.links_exchange(), "guest.whatsapp", self.guests_queue()),
                binding(self.links_exchange(), "host.webex", self.hosts_queue()),
            ],
        }
    }

    fn bounded(&self) -> Vec<(&'static str, Argument)> {
        let length_max = i32::try_from(self.queue_length_max).unwrap_or(i32::MAX);
        vec![
            ("x-queue-type", Argument::Text("quorum".to_owned())),
            ("x-overflow", Argument::Text("reject-publish".to_owned())),
            ("x-max-length", Argument::Number(length_max)),
        ]
    }

    /// A queue whose messages the broker never drops: what it gives up on goes to the dead queue, at least once
    /// (RabbitMQ's manual, "Quorum Queues: at-least-once dead-lettering", with the overflow and length it asks for).
    fn work(&self, name: &str) -> Queue {
        let mut arguments = self.bounded();
        arguments.push(("x-delivery-limit", Argument::Number(DELIVERY_LIMIT)));
        arguments.extend(dead_letter_to(Self::dead_queue(name)));
        Queue { name: name.to_owned(), arguments }
    }

    /// A queue that gives every message back to the queue `name` after `delay`. One delay for all of its messages: with a
    /// time of its own for each, one would wait behind another.
    fn hold(&self, name: &str, delay: Duration) -> Queue {
        let mut arguments = self.bounded();
        arguments
            .push(("x-message-ttl", Argument::Number(i32::try_from(delay.as_millis()).unwrap_or(i32::MAX))));
        arguments.extend(dead_letter_to(name.to_owned()));
        Queue { name: Self::hold_queue(name, delay), arguments }
    }

    /// A queue that gives a message back to the queue `name` when it is rejected, and else keeps it: see
    /// [`crate::dead`].
    fn replay(&self, name: &str) -> Queue {
        let mut arguments = self.bounded();
        arguments.push(("x-delivery-limit", Argument::Number(i32::MAX)));
        arguments.extend(dead_letter_to(name.to_owned()));
        Queue { name: Self::replay_queue(name), arguments }
    }

    /// A queue that only people empty: looking at a message must never use up its deliveries.
    fn dead(&self, name: &str) -> Queue {
        let mut arguments = self.bounded();
        arguments.push(("x-delivery-limit", Argument::Number(i32::MAX)));
        Queue { name: Self::dead_queue(name), arguments }
    }

    /// Declares, checks, or leaves it, as `topology.declare` says; `limit` for each answer. What was found in order is not
    /// asked for again at each new connection: a cluster that lost a node may take a minute to answer a declaration, and
    /// serves its queues meanwhile.
    ///
    /// # Errors
    /// [`TopologyError`], which names the exchange or queue and the argument.
    pub async fn ensure(&self, connection: &Connection, limit: Duration) -> Result<(), TopologyError> {
        let passive = match self.declare {
            Declare::Off => return Ok(()),
            Declare::Create => false,
            Declare::Check => true,
        };
        if !self.in_order.load(Ordering::Relaxed) {
            self.apply(connection, passive, limit).await?;
            self.in_order.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Has the next [`Topology::ensure`] look again: something went wrong over a connection that stands, so a queue or an
    /// exchange may be missing.
    pub fn doubt(&self) {
        self.in_order.store(false, Ordering::Relaxed);
    }

    /// Tells all who consume that something that was missing is declared again: a queue of the same name may be another one, and the
    /// broker then does not always say so to the consumers of the one before.
    pub(super) fn tell_declared_again(&self) {
        self.declared_again.send_modify(|times| *times += 1);
    }

    /// Changes with each [`Topology::tell_declared_again`].
    pub(super) fn declared_again(&self) -> watch::Receiver<u64> {
        self.declared_again.subscribe()
    }

    /// Declares the queue `name` (or, `passive`, sees that it is there), and tells how many messages are ready in it and how
    /// many consumers it has. Where it is there already, declaring compares its arguments.
    ///
    /// # Errors
    /// [`TopologyError`].
    pub async fn expect(
        &self,
        connection: &Connection,
        name: &str,
        passive: bool,
        limit: Duration,
    ) -> Result<Depth, TopologyError> {
        // On a channel of its own: a refusal closes it.
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

    /// Declares everything (or, `passive`, sees that it is there).
    ///
    /// # Errors
    /// [`TopologyError`].
    pub async fn apply(
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
                // Both were declared a moment ago: somebody deleted one in between, and the next try declares it again.
                Some(404) => TopologyError::Broker(error),
                _ => explain(error, "binding of queue", &binding.queue),
            })?;
        }
        // The channel was for this alone; one that can't be closed goes with its connection.
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

/// The argument that the broker's 406 is about.
pub(crate) fn inequivalent(said: &str) -> Option<&str> {
    said.split("inequivalent arg '").nth(1)?.split('\'').next()
}

/// Says what the broker's refusal means and what to do.
fn explain(error: BrokerError, kind: &str, name: &str) -> TopologyError {
    let said = error.to_string();
    let mut text = format!("{kind} {name}: ");
    let hint = match error.reply_code() {
        Some(404) => {
            "it does not exist; declare it with `instant-connect-worker topology --declare`, or set topology.declare = \"create\""
        }
        Some(406) => {
            if let Some(argument) = inequivalent(&said) {
                _ = write!(text, "argument {argument} is not what is declared: ");
            }
            "it exists with other arguments; delete it (when it is empty), change the setting it comes from, or set topology.declare = \"check\""
        }
        Some(403) => {
            "the user may not do that; grant configure, write and read on the prefix, or let an administrator declare it and set topology.declare = \"check\""
        }
        _ => return TopologyError::Broker(error),
    };
    _ = write!(text, "{hint} (the broker says: {said})");
    TopologyError::Mismatch(text)
}
