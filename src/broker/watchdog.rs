//! Looks at the queues of one stage now and then, from beside its consumer: how much is in them, and whether the consumer
//! has fallen silent. Broker and client can each believe that a consumer is served when it is not; then messages wait,
//! nothing is delivered, and no error comes.

use std::time::Duration;

use lapin::{Channel, Connection, options::QueueDeclareOptions, types::FieldTable};
use tokio::time::sleep;
use tracing::{debug, warn};

use super::{
    connection::{BrokerError, Connector, within},
    properties::short,
    topology::Topology,
};
use crate::telemetry::metrics::{StageMetrics, labels::Queue};

/// So many looks in a row must find a consumer silent.
const LOOKS: u32 = 3;

/// The queues of one stage, and how they are looked at.
#[derive(Debug)]
pub struct Watchdog<'a> {
    connection: &'a Connection,
    channel: Option<Channel>,
    queue: &'a str,
    queues: Vec<(Queue, String)>,
    metrics: &'a StageMetrics,
    limit: Duration,
}

impl<'a> Watchdog<'a> {
    /// Of the consumer of `queue` on `connection`, which counts in `metrics`.
    #[must_use]
    pub fn new(
        connection: &'a Connection,
        topology: &Topology,
        queue: &'a str,
        metrics: &'a StageMetrics,
        limit: Duration,
    ) -> Self {
        let holds = topology.delays().iter().map(|delay| (Queue::Held, Topology::hold_queue(queue, *delay)));
        let mut queues = vec![(Queue::Work, queue.to_owned()), (Queue::Dead, Topology::dead_queue(queue))];
        queues.extend(holds);
        Self { connection, channel: None, queue, queues, metrics, limit }
    }

    /// Looks as often as `connector` says, until the consumer has fallen silent or the broker answers no more.
    pub async fn watch(mut self, connector: &Connector) -> BrokerError {
        let (mut silent, mut taken) = (0, self.metrics.taken());
        loop {
            sleep(connector.watch_interval).await;
            let waiting = match self.look().await {
                Ok(waiting) => waiting,
                Err(error) => return error,
            };
            let idle = self.metrics.is_consuming() && self.metrics.oldest_work().is_none();
            let before = std::mem::replace(&mut taken, self.metrics.taken());
            silent = if waiting > 0 && idle && taken == before { silent + 1 } else { 0 };
            if silent >= LOOKS {
                self.metrics.silent();
                warn!(
                    queue = self.queue,
                    waiting,
                    "the consumer has fallen silent: messages wait, and none is delivered; connecting anew"
                );
                return BrokerError::Ended(format!("the consumer of {} had fallen silent", self.queue));
            }
        }
    }

    /// Shows how much is in the queues; how much waits for the consumer.
    async fn look(&mut self) -> Result<u64, BrokerError> {
        let mut sums = [0; 3];
        let mut position = 0;
        while let Some((kind, name)) = self.queues.get(position) {
            match self.depth(name).await {
                Ok((depth, channel)) => {
                    sums[*kind as usize] += u64::from(depth);
                    self.channel = Some(channel);
                    position += 1;
                }
                // Missing, or not ours to look at: it is looked at no more, and the channel is gone.
                Err(error) if error.reply_code().is_some() => {
                    debug!(queue = name, %error, "its length can't be seen");
                    self.channel = None;
                    self.queues.remove(position);
                }
                Err(error) => return Err(error),
            }
        }
        self.metrics.set_queued(sums);
        Ok(sums[Queue::Work as usize])
    }

    /// How many messages are ready in the queue called `name`, and the channel that was asked.
    async fn depth(&self, name: &str) -> Result<(u32, Channel), BrokerError> {
        let channel = match &self.channel {
            Some(channel) => channel.clone(),
            None => {
                within("open channel", self.limit, self.connection, self.connection.create_channel()).await?
            }
        };
        let options = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
        let declare = channel.queue_declare(short(name), options, FieldTable::default());
        let queue = within("look at queue", self.limit, &channel, declare).await?;
        Ok((queue.message_count(), channel))
    }
}
