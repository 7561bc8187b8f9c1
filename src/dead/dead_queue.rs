//! Takes letters from a dead queue, and leaves or acknowledges them.

use std::time::Duration;

use futures_util::{StreamExt, stream::SelectAll};
use lapin::{
    Acker, Channel, Connection, Consumer,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use tokio::time::{Instant, sleep, timeout};

use super::{DeadLetter, DeadQueueKind};
use crate::broker::{
    connection::{BrokerError, within},
    properties::short,
    topology::{Topology, TopologyError},
};

/// Most letters that are on their way to this program at once: what is unread takes memory here.
pub(super) const WINDOW: u16 = 50;
/// How long a dead queue is open: what it leaves alone is unacknowledged, and the broker ends a channel for that after 30
/// minutes, its default.
const OPEN_MAX: Duration = Duration::from_secs(20 * 60);
/// How often it is looked at whether time is up while nothing comes.
const QUIET: Duration = Duration::from_millis(500);
/// How often letters may have been looked at in a queue whose delivery limit is not known to be ours. RabbitMQ's own
/// default is 20, after which a letter is lost.
const LOOKS_MAX: u32 = 15;

/// Why dead letters could not be worked on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeadError {
    /// The broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Its queues.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// Somebody else is at it.
    #[error("{0}: another `dead` command is at work on it; try again when it is done")]
    Locked(String),
    /// Another client consumes the queue.
    #[error("{0}: another client consumes it; end that first")]
    Taken(String),
    /// A letter that ends every connection that takes it.
    #[error(
        "{queue}: letter {position} and all letters behind it can't be read; take it out with RabbitMQ's management page (Get messages, Automatic ack)"
    )]
    Unreadable {
        /// The dead queue.
        queue: String,
        /// From 1.
        position: u32,
    },
    /// Looking on could lose letters.
    #[error(
        "{0}: its letters were looked at {LOOKS_MAX} times and its delivery limit is not known to be ours (topology.declare is not create): RabbitMQ may drop them; set the queue's x-delivery-limit as `topology` prints it"
    )]
    WornOut(String),
    /// A letter's copy was not taken.
    #[error("{queue}: the broker {what}; nothing was acknowledged; try again")]
    Unpublished {
        /// Where it was to go.
        queue: String,
        /// What it did.
        what: &'static str,
    },
    /// It took too long.
    #[error("{0}: not done within {OPEN_MAX:?}; use a filter")]
    TimeUp(String),
}

/// An open dead queue. Closing its connection, however that comes, gives the broker back what was not acknowledged.
pub(crate) struct DeadQueue<'a> {
    pub(super) connection: &'a Connection,
    pub(super) topology: &'a Topology,
    pub(super) limit: Duration,
    /// Whose letters.
    pub kind: DeadQueueKind,
    /// The dead queue.
    pub queue: String,
    /// How many letters there were at the beginning.
    pub letters: u32,
    /// How many copies an interrupted replay left behind.
    pub staged: u32,
    checked: bool,
}

impl<'a> DeadQueue<'a> {
    /// Opens the dead queue of `kind`; `limit` for any single answer of the broker.
    ///
    /// # Errors
    /// [`DeadError`].
    pub(crate) async fn open(
        connection: &'a Connection,
        topology: &'a Topology,
        kind: DeadQueueKind,
        limit: Duration,
    ) -> Result<Self, DeadError> {
        let queue = Topology::dead_queue(&kind.queue(topology));
        topology.expect(connection, &queue, true, limit).await?;
        lock(connection, &queue, limit).await?;
        let checked = topology.creates();
        // Declaring what is there compares its arguments: with another delivery limit, looking would lose letters.
        topology.expect(connection, &queue, !checked, limit).await?;
        let staging = Topology::replay_queue(&kind.queue(topology));
        // Only a replay needs it, and says so.
        let missing = topology.expect(connection, &staging, !checked, limit).await.err();
        if let Some(error) = missing.filter(|error| checked || !matches!(error, TopologyError::Mismatch(_))) {
            return Err(error.into());
        }
        let mut dead_queue =
            Self { connection, topology, limit, kind, queue, letters: 0, staged: 0, checked };
        dead_queue.letters = dead_queue.alone(&dead_queue.queue).await?;
        dead_queue.staged = match dead_queue.alone(&staging).await {
            Err(DeadError::Topology(TopologyError::Mismatch(_))) => 0,
            staged => staged?,
        };
        Ok(dead_queue)
    }

    /// How many messages are ready in `queue`, once nobody else consumes it: a tool that was killed has its lock no more, but the
    /// broker may not have everything back yet that it had taken.
    pub(super) async fn alone(&self, queue: &str) -> Result<u32, DeadError> {
        let until = Instant::now() + self.limit;
        loop {
            let depth = self.topology.expect(self.connection, queue, true, self.limit).await?;
            if depth.consumers == 0 {
                return Ok(depth.ready);
            }
            if Instant::now() >= until {
                return Err(DeadError::Taken(queue.to_owned()));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Takes what is there now, `most` letters at most.
    ///
    /// # Errors
    /// [`DeadError::Broker`].
    pub(crate) async fn take(&self, most: u32) -> Result<Reader<'_>, DeadError> {
        self.take_from(&self.queue, most, WINDOW).await
    }

    /// As [`DeadQueue::take`], from another queue, `window` messages at once.
    pub(super) async fn take_from(
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

/// An exclusive queue ends with its connection, and nobody else can have it until then.
async fn lock(connection: &Connection, queue: &str, limit: Duration) -> Result<(), DeadError> {
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
        Err(error) => Err(error.into()),
    }
}

/// Letters of one pass.
pub(crate) struct Reader<'a> {
    dead_queue: &'a DeadQueue<'a>,
    queue: String,
    pub(super) channel: Channel,
    streams: SelectAll<Consumer>,
    window: usize,
    /// Taken and not acknowledged.
    unsettled: usize,
    /// Taken.
    pub seen: u32,
    most: u32,
    until: Option<Instant>,
}

impl Reader<'_> {
    /// The next letter, `None` when all were seen. A letter that is dropped is left alone.
    ///
    /// # Errors
    /// [`DeadError`].
    pub(crate) async fn next(&mut self) -> Result<Option<DeadLetter>, DeadError> {
        let Some(delivery) = self.delivery().await? else { return Ok(None) };
        let letter = DeadLetter::of(
            self.dead_queue.kind,
            &self.dead_queue.kind.queue(self.dead_queue.topology),
            self.seen,
            delivery,
        );
        if !self.dead_queue.checked && letter.looks >= LOOKS_MAX {
            return Err(DeadError::WornOut(self.queue.clone()));
        }
        Ok(Some(letter))
    }

    /// It settles all that it takes, soon: no limit to how long it is open.
    pub(super) fn never_ends(&mut self) {
        self.until = None;
    }

    pub(super) async fn delivery(&mut self) -> Result<Option<Delivery>, DeadError> {
        if self.seen >= self.most {
            return Ok(None);
        }
        if self.unsettled == self.streams.len() * self.window {
            self.subscribe().await?;
        }
        let quiet_since = Instant::now();
        loop {
            if self.until.is_some_and(|until| Instant::now() >= until) {
                return Err(DeadError::TimeUp(self.queue.clone()));
            }
            match timeout(QUIET, self.streams.next()).await {
                Ok(delivery) => return self.taken(delivery).map(Some),
                // A letter that is missing is on its way: one with deeply nested headers takes a while to be read. Or another
                // client took it.
                Err(_) if quiet_since.elapsed() <= self.dead_queue.limit => {}
                Err(_) if self.is_empty().await? => return Ok(None),
                Err(_) => return Err(BrokerError::Timeout("take letters", self.dead_queue.limit).into()),
            }
        }
    }

    fn taken(&mut self, delivery: Option<lapin::Result<Delivery>>) -> Result<Delivery, DeadError> {
        let ended = || BrokerError::Ended(format!("the broker ended the consumer of {}", self.queue));
        match delivery.ok_or_else(ended)?.map_err(|error| BrokerError::Lapin("take letters", error)) {
            Ok(delivery) => {
                self.unsettled += 1;
                self.seen += 1;
                Ok(delivery)
            }
            Err(error) if error.is_reading() => {
                Err(DeadError::Unreadable { queue: self.queue.clone(), position: self.seen + 1 })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Acknowledges `letter`. The queue may get to know of it only later, or, where the channel is closed before that,
    /// not at all: whoever must be sure counts what is left.
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

    /// Gives the broker back what was not acknowledged.
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
        Ok(topology.expect(connection, &self.queue, true, *limit).await?.ready == 0)
    }

    /// The prefetch bounds what one consumer holds, and what it leaves alone it holds to the end: so when all are full there is
    /// another one.
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
