//! Declares and verifies the topology, and explains the broker's refusals.

use std::{fmt::Write, sync::atomic::Ordering, time::Duration};

use tracing::warn;

use super::{Binding, Exchange, Queue, Topology, TopologyError};
use crate::broker::{
    connection::{BrokerError, within},
    port::{BrokerChannel, BrokerConnection},
};

/// The counts of a queue in the broker's reply to a declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Messages ready for delivery.
    pub ready: u32,
    pub consumers: u32,
}

impl Topology {
    /// Declares the queue `name`, or only verifies that it exists if `passive`. Returns its number of ready messages
    /// and consumers. If the queue exists, declaring compares its arguments.
    ///
    /// # Errors
    /// [`TopologyError`].
    pub async fn verify(
        &self,
        connection: &impl BrokerConnection,
        name: &str,
        passive: bool,
        limit: Duration,
    ) -> Result<Depth, TopologyError> {
        // On its own channel, because a refusal closes it.
        let channel = within("open channel", limit, connection, connection.open_channel())
            .await
            .map_err(TopologyError::Broker)?;
        let planned = self.plan().queues.into_iter().find(|queue| queue.name == name);
        let queue = planned.unwrap_or(Queue { name: name.to_owned(), arguments: Vec::new() });
        let depth = declare_queue(&channel, &queue, passive, limit)
            .await
            .map_err(|error| explain(error, "queue", name))?;
        _ = within("close channel", limit, connection, channel.close()).await;
        Ok(depth)
    }

    /// Declares everything, or only verifies that it exists if `passive`.
    ///
    /// # Errors
    /// [`TopologyError`].
    pub async fn declare(
        &self,
        connection: &impl BrokerConnection,
        passive: bool,
        limit: Duration,
    ) -> Result<(), TopologyError> {
        self.refuse_rivals(connection, limit).await?;
        self.report_leftovers(connection, limit).await?;
        let channel = within("open channel", limit, connection, connection.open_channel())
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
        _ = within("close channel", limit, connection, channel.close()).await;
        Ok(())
    }

    /// Refuses a queue of another `guests.delivery`, because AMQP cannot tell whether it still gets the guests' links.
    pub(super) async fn refuse_rivals(
        &self,
        connection: &impl BrokerConnection,
        limit: Duration,
    ) -> Result<(), TopologyError> {
        for rival in self.rivals() {
            // On its own channel, because the expected refusal closes it.
            let channel = within("open channel", limit, connection, connection.open_channel()).await?;
            let queue = Queue { name: self.queue(rival), arguments: Vec::new() };
            match declare_queue(&channel, &queue, true, limit).await {
                Ok(_) => return Err(TopologyError::Mismatch(rival_exists(&queue.name))),
                // A user who may not look at the queue did not declare it either.
                Err(error) if matches!(error.reply_code(), Some(403 | 404)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Topology {
    /// Logs once each queue of another `guests.delivery`: nobody sends the links in it, and it gets more if it is bound.
    async fn report_leftovers(
        &self,
        connection: &impl BrokerConnection,
        limit: Duration,
    ) -> Result<(), BrokerError> {
        if self.looked_for_leftovers.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let rivals = self.rivals();
        for leftover in self.superseded().filter(|queue| !rivals.contains(queue)) {
            // On its own channel, because the expected refusal closes it.
            let channel = within("open channel", limit, connection, connection.open_channel()).await?;
            let queue = Queue { name: self.queue(leftover), arguments: Vec::new() };
            if let Ok(depth) = declare_queue(&channel, &queue, true, limit).await {
                warn!(
                    queue = queue.name,
                    messages = depth.ready,
                    "a queue exists that guests.delivery does not use, and nobody sends the links in it: {LEFTOVER_ADVICE}"
                );
                _ = within("close channel", limit, connection, channel.close()).await;
            }
        }
        Ok(())
    }
}

/// Advice about a queue of another `guests.delivery`.
pub(crate) const LEFTOVER_ADVICE: &str =
    "unbind it, move its links to the queue guests, and delete it (docs/guests.md, \"Change the delivery\")";

/// The problem of a queue that may get the links that a stage sends, and what to do.
pub(crate) fn rival_exists(name: &str) -> String {
    format!(
        "queue {name}: exists, but guests.delivery is webex-connect: other programs may send its links, too. Let them empty it, then \
         delete it, or set guests.delivery = \"amqp\""
    )
}

pub(crate) async fn declare_exchange(
    channel: &impl BrokerChannel,
    exchange: &Exchange,
    passive: bool,
    limit: Duration,
) -> Result<(), BrokerError> {
    within("declare exchange", limit, channel, channel.declare_exchange(exchange, passive)).await
}

pub(crate) async fn declare_queue(
    channel: &impl BrokerChannel,
    queue: &Queue,
    passive: bool,
    limit: Duration,
) -> Result<Depth, BrokerError> {
    let declare = channel.declare_queue(&queue.name, &queue.arguments, passive);
    within("declare queue", limit, channel, declare).await
}

async fn bind(channel: &impl BrokerChannel, binding: &Binding, limit: Duration) -> Result<(), BrokerError> {
    within("bind queue", limit, channel, channel.bind(binding)).await
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
