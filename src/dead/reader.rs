//! Reads the letters of a queue and acknowledges them, rejects them or leaves them.

use std::time::Duration;

use futures_util::{StreamExt, stream::SelectAll};
use lapin::{
    Acker, Channel, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions},
    types::FieldTable,
};
use tokio::time::{Instant, timeout};

use super::{DeadError, DeadLetter, DeadQueue};
use crate::broker::{
    connection::{BrokerError, within},
    properties::short,
};

/// Maximum letters in transit to this program, because unread letters take memory.
pub(super) const WINDOW: u16 = 50;
/// Maximum time that a dead queue is open: its letters stay unacknowledged, and the broker closes a channel for that after
/// 30 minutes by default.
pub(super) const OPEN_MAX: Duration = Duration::from_secs(20 * 60);
/// Interval between checks of the time limit while no letter arrives.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum deliveries of a letter in a queue with an unknown delivery limit. RabbitMQ's own default is 20, after which a
/// letter is lost.
pub(super) const DELIVERIES_MAX: u32 = 15;

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

impl<'a> Reader<'a> {
    /// Reads the first `most` letters of `queue`, with a prefetch of `window`.
    ///
    /// # Errors
    /// [`DeadError::Broker`].
    pub(super) async fn open(
        dead_queue: &'a DeadQueue<'a>,
        queue: &str,
        most: u32,
        window: u16,
    ) -> Result<Self, DeadError> {
        let DeadQueue { connection, limit, .. } = *dead_queue;
        let channel = within("open channel", limit, connection, connection.create_channel()).await?;
        let prefetch = channel.basic_qos(window, BasicQosOptions::default());
        within("set prefetch", limit, connection, prefetch).await?;
        Ok(Self {
            dead_queue,
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
