//! An open and locked dead queue.

use std::time::Duration;

use lapin::{options::QueueDeclareOptions, types::FieldTable};
use tokio::time::{Instant, sleep};

use super::{
    DeadError,
    reader::{Reader, WINDOW},
};
use crate::{
    broker::{
        connection::{Connected, within},
        properties::short,
        topology::{Depth, Topology, TopologyError},
    },
    clock::Clock,
    contract::stage::QueueDef,
};

/// Time for which a command tries to lock a queue.
const LOCK_WAIT: Duration = Duration::from_secs(5);

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
    /// The queue's delivery limit is known.
    pub(super) limit_known: bool,
}

impl<'a> DeadQueue<'a> {
    /// Opens the dead queue of `work`, with `limit` for each reply of the broker.
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
        let creates = topology.creates();
        // Declaring an existing queue compares its arguments: with another delivery limit, reading would lose letters.
        let mut limit_known = accepts(topology.verify(connection, &queue, false, limit).await, creates)?;
        let staging = Topology::replay_queue(&topology.queue(work));
        // Only a replay needs this queue, and reports its absence.
        if creates || accepts(topology.verify(connection, &staging, true, limit).await, false)? {
            limit_known &= accepts(topology.verify(connection, &staging, false, limit).await, creates)?;
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
        Reader::open(self, &self.queue, most, WINDOW).await
    }
}

/// True if the queue was accepted, and false if it differs, is missing or may not be declared. With `strict`, that is an error.
fn accepts(verified: Result<Depth, TopologyError>, strict: bool) -> Result<bool, TopologyError> {
    match verified {
        Ok(_) => Ok(true),
        Err(TopologyError::Mismatch(_)) if !strict => Ok(false),
        Err(error) => Err(error),
    }
}

/// Locks `queue` by an exclusive queue, which no other connection can declare and which ends with this one. A killed command holds
/// its lock until the broker notices the end of its connection.
async fn lock(connection: &Connected, queue: &str, limit: Duration) -> Result<(), DeadError> {
    let until = Instant::now() + LOCK_WAIT;
    let name = format!("{queue}.lock");
    loop {
        // The refusal closes the channel.
        let channel = within("open channel", limit, connection, connection.create_channel()).await?;
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let declare = channel.queue_declare(short(&name), options, FieldTable::default());
        match within("lock", limit, connection, declare).await {
            Ok(_) => return Ok(()),
            Err(error) if error.reply_code() == Some(405) && Instant::now() < until => {
                sleep(Duration::from_millis(200)).await;
            }
            Err(error) if error.reply_code() == Some(405) => {
                return Err(DeadError::Locked(queue.to_owned()));
            }
            Err(error) if error.reply_code() == Some(403) => {
                return Err(DeadError::LockRefused(queue.to_owned()));
            }
            Err(error) => return Err(error.into()),
        }
    }
}
