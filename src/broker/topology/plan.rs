//! The plan: every exchange, queue and binding, with all arguments.

use std::time::Duration;

use serde::Serialize;

use super::{REPLAY, Topology};
use crate::{
    contract::{
        receipt,
        stage::{QueueDef, queues},
    },
    stages,
};

/// Deliveries of one message before the broker itself dead-letters it. This program dead-letters a message that kills
/// workers much sooner. This higher limit replaces RabbitMQ 4's default of 20, which a few restarts could use up.
const DELIVERY_LIMIT: i32 = 100;

/// Limits of the queue of receipts. A receipt has about half a kilobyte, and 4 KiB more with long attributes.
const RECEIPTS_MAX: i32 = 100_000;
const RECEIPTS_BYTES_MAX: i32 = 64 * 1024 * 1024;
const RECEIPTS_AGE_MAX_MS: i32 = 24 * 3600 * 1000;

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

impl Topology {
    /// The queues that this program uses with another `guests.delivery` only. If one of them is still bound, it gets a copy of each
    /// link. Without a consumer it becomes full, and then the broker refuses the links.
    pub(crate) fn superseded(&self) -> impl Iterator<Item = &'static QueueDef> + use<> {
        let planned: Vec<_> = queues(&self.stages).collect();
        queues(stages::ALL).filter(move |queue| !planned.contains(queue))
    }

    /// The superseded queues whose messages a stage of this program sends, too: a guest would get two messages.
    pub(crate) fn rivals(&self) -> Vec<&'static QueueDef> {
        let consumed: Vec<_> = self.stages.iter().flat_map(|stage| stage.queue.bindings).collect();
        self.superseded()
            .filter(|queue| queue.bindings.iter().any(|binding| consumed.contains(&binding)))
            .collect()
    }

    fn binding(&self, queue: &QueueDef, (exchange, routing_key): (&str, &'static str)) -> Binding {
        Binding { exchange: self.exchange(exchange), routing_key, queue: self.queue(queue) }
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
        let bindings = bindings.into_iter().map(|(queue, binding)| self.binding(queue, *binding));
        let mut bindings: Vec<_> = bindings.collect();
        if self.receipts {
            let name = self.exchange(receipt::EXCHANGE);
            exchanges.push(Exchange { name: name.clone(), kind: "topic" });
            queues.push(Self::receipts(&name));
            bindings.push(Binding { exchange: name.clone(), routing_key: receipt::BINDING, queue: name });
        }
        TopologyPlan { exchanges, queues, bindings }
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

    /// The queue of receipts. Perhaps nobody consumes it, so old receipts make room for new ones.
    fn receipts(name: &str) -> Queue {
        let arguments = vec![
            ("x-queue-type", Argument::Text("quorum".to_owned())),
            ("x-overflow", Argument::Text("drop-head".to_owned())),
            ("x-max-length", Argument::Number(RECEIPTS_MAX)),
            ("x-max-length-bytes", Argument::Number(RECEIPTS_BYTES_MAX)),
            ("x-message-ttl", Argument::Number(RECEIPTS_AGE_MAX_MS)),
            ("x-delivery-limit", Argument::Number(DELIVERY_LIMIT)),
        ];
        Queue { name: name.to_owned(), arguments }
    }

    /// A dead queue, which only people empty. Looking at a message must never use up its deliveries.
    fn dead(&self, name: &str) -> Queue {
        let mut arguments = self.bounded();
        arguments.push(("x-delivery-limit", Argument::Number(i32::MAX)));
        Queue { name: Self::dead_queue(name), arguments }
    }
}

fn dead_letter_to(queue: String) -> [(&'static str, Argument); 3] {
    [
        ("x-dead-letter-exchange", Argument::Text(String::new())),
        ("x-dead-letter-routing-key", Argument::Text(queue)),
        ("x-dead-letter-strategy", Argument::Text("at-least-once".to_owned())),
    ]
}
