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
    topology::{Depth, Topology},
};
use crate::telemetry::metrics::{StageMetrics, labels::Queue};

/// So many looks in a row must find a consumer silent, or the broker without an answer while nothing is delivered.
const LOOKS: u32 = 3;

/// Most looks in a row that leave out a queue which can't be seen: asking costs a channel, and a line in the broker's log.
const LEFT_OUT_MAX: u32 = 15;

/// A queue that is looked at.
#[derive(Debug)]
struct WatchedQueue {
    kind: Queue,
    name: String,
    /// So many looks leave it out.
    left_out: u32,
    /// So many will, if it can't be seen again.
    next_left_out: u32,
}

impl WatchedQueue {
    fn new(kind: Queue, name: String) -> Self {
        Self { kind, name, left_out: 0, next_left_out: 0 }
    }

    fn seen(&mut self) {
        self.next_left_out = 0;
    }

    fn not_seen(&mut self) {
        self.left_out = self.next_left_out;
        self.next_left_out = (2 * self.left_out + 1).min(LEFT_OUT_MAX);
    }

    /// Whether it is this look's turn.
    fn is_due(&mut self) -> bool {
        let due = self.left_out == 0;
        self.left_out = self.left_out.saturating_sub(1);
        due
    }
}

/// The queues of one stage, and how they are looked at.
#[derive(Debug)]
pub struct Watchdog<'a> {
    connection: &'a Connection,
    channel: Option<Channel>,
    queue: &'a str,
    queues: Vec<WatchedQueue>,
    metrics: &'a StageMetrics,
    limit: Duration,
}

/// What there is of a stage's own queue.
#[derive(Clone, Copy, Debug, Default)]
struct QueueState {
    /// Messages that nobody has taken.
    ready: u64,
    /// Nobody consumes it, as the broker sees it.
    forsaken: bool,
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
        let hold = |delay: &Duration| WatchedQueue::new(Queue::Held, Topology::hold_queue(queue, *delay));
        let mut queues = vec![
            WatchedQueue::new(Queue::Work, queue.to_owned()),
            WatchedQueue::new(Queue::Dead, Topology::dead_queue(queue)),
        ];
        queues.extend(topology.delays().iter().map(hold));
        Self { connection, channel: None, queue, queues, metrics, limit }
    }

    /// Looks as often as `connector` says, until the consumer has fallen silent or the broker answers no more.
    pub async fn watch(mut self, connector: &Connector) -> BrokerError {
        let (mut silent, mut unanswered, mut taken) = (0, 0, self.metrics.taken());
        loop {
            sleep(connector.watch_interval).await;
            let QueueState { ready: waiting, forsaken } = match self.look().await {
                Ok(work) => work,
                // A cluster that lost a node may take long to answer for one queue, and serves the others meanwhile.
                Err(error @ BrokerError::Timeout(..)) => {
                    let before = std::mem::replace(&mut taken, self.metrics.taken());
                    let serves = taken != before || self.metrics.oldest_work().is_some();
                    unanswered = if serves { 0 } else { unanswered + 1 };
                    if unanswered >= LOOKS {
                        return error;
                    }
                    debug!(queue = self.queue, %error, "the queues can't be seen; looking again later");
                    continue;
                }
                Err(error) => return error,
            };
            unanswered = 0;
            let idle = self.metrics.is_consuming() && self.metrics.oldest_work().is_none();
            let before = std::mem::replace(&mut taken, self.metrics.taken());
            // A queue that was deleted and declared again has lost its consumers, and delivers to none.
            let suspicious = waiting > 0 || forsaken;
            silent = if suspicious && idle && taken == before { silent + 1 } else { 0 };
            if silent >= LOOKS {
                self.metrics.silent();
                warn!(
                    queue = self.queue,
                    waiting,
                    forsaken,
                    "the consumer has fallen silent: messages wait, and none is delivered; connecting anew"
                );
                return BrokerError::Ended(format!("the consumer of {} had fallen silent", self.queue));
            }
        }
    }

    /// Shows how much is in the queues; what there is of the consumer's.
    async fn look(&mut self) -> Result<QueueState, BrokerError> {
        let (mut sums, mut work) = ([0; 3], QueueState::default());
        for queue in &mut self.queues {
            if !queue.is_due() {
                continue;
            }
            match depth(self.connection, self.channel.take(), &queue.name, self.limit).await {
                Ok((depth, channel)) => {
                    queue.seen();
                    sums[queue.kind as usize] += u64::from(depth.ready);
                    if matches!(queue.kind, Queue::Work) {
                        work = QueueState { ready: depth.ready.into(), forsaken: depth.consumers == 0 };
                    }
                    self.channel = Some(channel);
                }
                // Missing, or not ours to look at, and the channel is gone. It may come back: the worker itself makes a dead queue
                // again when it needs it.
                Err(error) if error.reply_code().is_some() => {
                    debug!(queue = queue.name, %error, "its length can't be seen");
                    queue.not_seen();
                }
                Err(error) => return Err(error),
            }
        }
        self.metrics.set_queued(sums);
        Ok(work)
    }
}

/// What there is of the queue called `name`, and the channel that was asked: `channel`, or a new one.
async fn depth(
    connection: &Connection,
    channel: Option<Channel>,
    name: &str,
    limit: Duration,
) -> Result<(Depth, Channel), BrokerError> {
    let channel = match channel {
        Some(channel) => channel,
        None => within("open channel", limit, connection, connection.create_channel()).await?,
    };
    let options = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
    let declare = channel.queue_declare(short(name), options, FieldTable::default());
    let queue = within("look at queue", limit, &channel, declare).await?;
    Ok((Depth { ready: queue.message_count(), consumers: queue.consumer_count() }, channel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_cannot_be_seen_is_asked_for_ever_less_often_and_never_given_up() {
        let mut queue = WatchedQueue::new(Queue::Dead, "dead".to_owned());
        let mut looks = |count: usize, there: bool| {
            let due = |queue: &mut WatchedQueue| {
                let due = queue.is_due();
                match (due, there) {
                    (true, true) => queue.seen(),
                    (true, false) => queue.not_seen(),
                    (false, _) => {}
                }
                due
            };
            (0..count).filter(|_| due(&mut queue)).collect::<Vec<_>>()
        };
        assert_eq!(looks(63, false), [0, 1, 3, 7, 15, 31, 47]);
        assert_eq!(looks(3, true), [0, 1, 2]);
        assert_eq!(looks(4, false), [0, 1, 3]);
    }
}
