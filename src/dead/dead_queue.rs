//! Access to a dead queue: reads letters and acknowledges them or leaves them.

use std::time::Duration;

use futures_util::{StreamExt, stream::SelectAll};
use lapin::{
    Acker, Channel, Consumer,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use tokio::time::{Instant, sleep, timeout};

use super::DeadLetter;
use crate::{
    broker::{
        connection::{BrokerError, Connected, within},
        properties::short,
        topology::{Topology, TopologyError},
    },
    clock::Clock,
    contract::stage::QueueDef,
};

/// Maximum letters in transit to this program, because unread letters take memory.
pub(super) const WINDOW: u16 = 50;
/// Maximum time that a dead queue is open: its letters stay unacknowledged, and the broker closes a channel for that after
/// 30 minutes by default.
const OPEN_MAX: Duration = Duration::from_secs(20 * 60);
/// Interval between checks of the time limit while no letter arrives.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum deliveries of a letter in a queue with an unknown delivery limit. RabbitMQ's own default is 20, after which a
/// letter is lost.
const DELIVERIES_MAX: u32 = 15;

/// Reason that a command on dead letters failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeadError {
    /// The connection to the broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The broker's queues.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// Another `dead` command has locked the queue.
    #[error("{0}: queue is locked by another `dead` command; hint: retry when that command finishes")]
    Locked(String),
    /// The user may not declare the queue's lock.
    #[error(
        "{0}: cannot lock the queue: access refused; hint: grant the user `configure` on {0}.lock, a queue that exists only while `dead` runs"
    )]
    LockRefused(String),
    /// The queue has a consumer.
    #[error("{0}: queue already has a consumer; hint: stop that consumer first")]
    HasConsumer(String),
    /// A letter breaks every connection that consumes it.
    #[error(
        "{queue}: letter {position} is unreadable and blocks all letters behind it; hint: remove it with RabbitMQ's management page (Get messages, Automatic ack)"
    )]
    Unreadable {
        /// The dead queue.
        queue: String,
        /// Position in the queue, from 1.
        position: u32,
    },
    /// Reading the letters again could lose them.
    #[error(
        "{0}: letters were delivered {DELIVERIES_MAX} times and the queue's delivery limit is unknown (topology.declare is not create), so RabbitMQ may drop them; hint: set the queue's x-delivery-limit to the value that `topology` prints"
    )]
    DeliveryLimit(String),
    /// The broker did not accept the copy of a letter.
    #[error("{queue}: the broker {problem}; no letter was acknowledged; hint: try again")]
    Unpublished {
        /// The queue for the copy.
        queue: String,
        /// The broker's answer.
        problem: &'static str,
    },
    /// The time limit is over.
    #[error("{0}: not finished within {OPEN_MAX:?}; hint: use a filter")]
    TimeUp(String),
}

/// An open dead queue. When its connection closes for any reason, the broker requeues all unacknowledged letters.
pub(crate) struct DeadQueue<'a> {
    pub(super) connection: &'a Connected,
    pub(super) topology: &'a Topology,
    pub(super) limit: Duration,
    pub(super) clock: Clock,
    /// The work queue that the letters came from.
    pub work: &'static QueueDef,
    /// The name of the dead queue.
    pub queue: String,
    /// Letters at the start.
    pub letters: u32,
    /// Copies left by an interrupted replay.
    pub staged: u32,
    limit_known: bool,
}

impl<'a> DeadQueue<'a> {
    /// Opens the dead queue of `work`, with `limit` for each answer of the broker.
    ///
    /// # Errors
    /// [`DeadError`].
    pub(crate) async fn open(
        connection: &'a Connected,
        topology: &'a Topology,
        work: &'static QueueDef,
        limit: Duration,
        clock: Clock,
    ) -> Result<Self, DeadError> {
        let queue = Topology::dead_queue(&topology.queue(work));
        topology.verify(connection, &queue, true, limit).await?;
        lock(connection, &queue, limit).await?;
        let limit_known = topology.creates();
        // Declaring an existing queue compares its arguments: with another delivery limit, reading would lose letters.
        topology.verify(connection, &queue, !limit_known, limit).await?;
        let staging = Topology::replay_queue(&topology.queue(work));
        // Only a replay needs this queue, and reports its absence.
        let problem = topology.verify(connection, &staging, !limit_known, limit).await.err();
        if let Some(error) =
            problem.filter(|error| limit_known || !matches!(error, TopologyError::Mismatch(_)))
        {
            return Err(error.into());
        }
        let mut dead_queue =
            Self { connection, topology, limit, clock, work, queue, letters: 0, staged: 0, limit_known };
        dead_queue.letters = dead_queue.wait_for_sole_access(&dead_queue.queue).await?;
        dead_queue.staged = match dead_queue.wait_for_sole_access(&staging).await {
            Err(DeadError::Topology(TopologyError::Mismatch(_))) => 0,
            staged => staged?,
        };
        Ok(dead_queue)
    }

    /// Waits until `queue` has no consumer and returns its number of ready messages. A killed command has lost its lock, but
    /// the broker may not have requeued all of its letters yet.
    pub(super) async fn wait_for_sole_access(&self, queue: &str) -> Result<u32, DeadError> {
        let until = Instant::now() + self.limit;
        loop {
            let depth = self.topology.verify(self.connection, queue, true, self.limit).await?;
            if depth.consumers == 0 {
                return Ok(depth.ready);
            }
            if Instant::now() >= until {
                return Err(DeadError::HasConsumer(queue.to_owned()));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Reads the current letters, `most` at most.
    ///
    /// # Errors
    /// [`DeadError::Broker`].
    pub(crate) async fn read(&self, most: u32) -> Result<Reader<'_>, DeadError> {
        self.read_from(&self.queue, most, WINDOW).await
    }

    /// Reads as [`DeadQueue::read`], from `queue` and with a prefetch of `window`.
    pub(super) async fn read_from(
        &self,
        queue: &str,
        most: u32,
        window: u16,
    ) -> Result<Reader<'_>, DeadError> {
        let channel =
            within("open channel", self.limit, self.connection, self.connection.create_channel()).await?;
        within(
            "set prefetch",
            self.limit,
            self.connection,
            channel.basic_qos(window, BasicQosOptions::default()),
        )
        .await?;
        Ok(Reader {
            dead_queue: self,
            queue: queue.to_owned(),
            channel,
            streams: SelectAll::new(),
            window: window.into(),
            unsettled: 0,
            seen: 0,
            most,
            until: Some(Instant::now() + OPEN_MAX),
        })
    }
}

/// Locks `queue` by an exclusive queue, which no other connection can declare and which ends with this one.
async fn lock(connection: &Connected, queue: &str, limit: Duration) -> Result<(), DeadError> {
    let channel = within("open channel", limit, connection, connection.create_channel()).await?;
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let name = format!("{queue}.lock");
    let locked = within(
        "lock",
        limit,
        connection,
        channel.queue_declare(short(&name), options, FieldTable::default()),
    )
    .await;
    match locked {
        Ok(_) => Ok(()),
        Err(error) if error.reply_code() == Some(405) => Err(DeadError::Locked(queue.to_owned())),
        Err(error) if error.reply_code() == Some(403) => Err(DeadError::LockRefused(queue.to_owned())),
        Err(error) => Err(error.into()),
    }
}

/// Reader of the letters of a queue, once from start to end.
pub(crate) struct Reader<'a> {
    dead_queue: &'a DeadQueue<'a>,
    queue: String,
    pub(super) channel: Channel,
    streams: SelectAll<Consumer>,
    window: usize,
    /// Letters read and not acknowledged.
    unsettled: usize,
    /// Letters read.
    pub seen: u32,
    most: u32,
    until: Option<Instant>,
}

impl Reader<'_> {
    /// Returns the next letter, or `None` after the last. A letter that is not settled stays in the queue.
    ///
    /// # Errors
    /// [`DeadError`].
    pub(crate) async fn next(&mut self) -> Result<Option<DeadLetter>, DeadError> {
        let Some(delivery) = self.delivery().await? else { return Ok(None) };
        let letter = DeadLetter::of(
            self.dead_queue.work,
            &self.dead_queue.topology.queue(self.dead_queue.work),
            self.seen,
            delivery,
        );
        if !self.dead_queue.limit_known && letter.deliveries >= DELIVERIES_MAX {
            return Err(DeadError::DeliveryLimit(self.queue.clone()));
        }
        Ok(Some(letter))
    }

    /// Removes the time limit, for a reader that settles each message soon.
    pub(super) fn without_time_limit(&mut self) {
        self.until = None;
    }

    pub(super) async fn delivery(&mut self) -> Result<Option<Delivery>, DeadError> {
        if self.seen >= self.most {
            return Ok(None);
        }
        if self.unsettled == self.streams.len() * self.window {
            self.subscribe().await?;
        }
        let idle_since = Instant::now();
        loop {
            if self.until.is_some_and(|until| Instant::now() >= until) {
                return Err(DeadError::TimeUp(self.queue.clone()));
            }
            match timeout(POLL_INTERVAL, self.streams.next()).await {
                Ok(delivery) => return self.accept(delivery).map(Some),
                // The missing letter is in transit, because parsing deeply nested headers takes a while. Or another client
                // consumed it.
                Err(_) if idle_since.elapsed() <= self.dead_queue.limit => {}
                Err(_) if self.is_empty().await? => return Ok(None),
                Err(_) => return Err(BrokerError::Timeout("read letters", self.dead_queue.limit).into()),
            }
        }
    }

    fn accept(&mut self, delivery: Option<lapin::Result<Delivery>>) -> Result<Delivery, DeadError> {
        let ended = || BrokerError::Ended(format!("the broker cancelled the consumer of {}", self.queue));
        match delivery.ok_or_else(ended)?.map_err(|error| BrokerError::Lapin("read letters", error)) {
            Ok(delivery) => {
                self.unsettled += 1;
                self.seen += 1;
                Ok(delivery)
            }
            Err(error) if error.is_protocol_error() => {
                Err(DeadError::Unreadable { queue: self.queue.clone(), position: self.seen + 1 })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Acknowledges `letter`. The acknowledgement may reach the queue later, or never if the channel closes first. A caller
    /// that must be sure counts the remaining letters.
    ///
    /// # Errors
    /// [`DeadError::Broker`].
    pub(crate) async fn settle(&mut self, letter: &DeadLetter) -> Result<(), DeadError> {
        self.acknowledge(&letter.acker).await
    }

    pub(super) async fn acknowledge(&mut self, acker: &Acker) -> Result<(), DeadError> {
        within(
            "acknowledge",
            self.dead_queue.limit,
            self.dead_queue.connection,
            acker.ack(BasicAckOptions::default()),
        )
        .await?;
        self.unsettled -= 1;
        Ok(())
    }

    pub(super) async fn reject(&mut self, acker: &Acker) -> Result<(), DeadError> {
        let options = BasicRejectOptions { requeue: false };
        within("reject", self.dead_queue.limit, self.dead_queue.connection, acker.reject(options)).await?;
        self.unsettled -= 1;
        Ok(())
    }

    /// Closes the channel; the broker requeues all unacknowledged letters.
    ///
    /// # Errors
    /// [`DeadError::Broker`].
    pub(crate) async fn close(self) -> Result<(), DeadError> {
        Ok(within(
            "close channel",
            self.dead_queue.limit,
            self.dead_queue.connection,
            self.channel.close(200, "done".into()),
        )
        .await?)
    }

    async fn is_empty(&self) -> Result<bool, DeadError> {
        let DeadQueue { connection, topology, limit, .. } = self.dead_queue;
        Ok(topology.verify(*connection, &self.queue, true, *limit).await?.ready == 0)
    }

    /// Adds a consumer. The prefetch limits the unacknowledged letters of each consumer, and unchanged letters stay
    /// unacknowledged to the end, so a full consumer needs a successor.
    async fn subscribe(&mut self) -> Result<(), DeadError> {
        let tag = format!("dead.{:06}", self.streams.len());
        let options = BasicConsumeOptions::default();
        let consume =
            self.channel.basic_consume(short(&self.queue), short(&tag), options, FieldTable::default());
        self.streams
            .push(within("consume", self.dead_queue.limit, self.dead_queue.connection, consume).await?);
        Ok(())
    }
}
