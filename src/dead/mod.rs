//! Dead letters: looked at, replayed and dropped, while workers run.
//!
//! AMQP has no way to look at a message but to take it. So a [`DeadQueue`] takes all letters of a dead queue one after the
//! other, keeps those unacknowledged that it leaves alone, and the broker has them back when its channel closes, or when
//! the program is killed. Only what is small is remembered of a letter, so that memory does not grow with the queue.
//! One dead queue at a time is open for a queue: an exclusive queue is its lock, which ends with the connection.
//!
//! # Replay
//! A letter goes back in two steps, by way of the queue `{queue}.replay`, so that being killed at any moment loses nothing and
//! doubles nothing:
//!
//! 1. copies, their attempts reset, are published there with confirms, then their letters are acknowledged. Killed in
//!    between, letter and copy are both there: the next replay looks at the copies first, knows their letters by their
//!    ids, and only acknowledges them. An acknowledgement that was sent may still be lost with its channel (a quorum
//!    queue's client holds some back when there are many), so the channel is closed, and the letters are counted again;
//! 2. when none of the letters is left, the copies are rejected, and the broker itself moves them on to the work queue
//!    (dead-lettering, at least once). A rejection that is lost leaves its copy there, to be rejected again.
//!
//! What is left is the broker's own: a node that fails may repeat what it moves, under the same `message_id`. And another
//! client that takes letters meanwhile (RabbitMQ's management page) can hide them from the count.
//!
//! - [`letter`]: what is known of a letter; people masked
//! - [`filter`]: which letters are meant
//! - [`dead_queue`]: takes letters, leaves them, acknowledges them
//! - [`summary`]: what `list` and `show` tell
//! - [`replay`], [`discard`]: what changes something

pub(crate) mod dead_queue;
pub(crate) mod discard;
pub(crate) mod filter;
pub(crate) mod letter;
pub(crate) mod replay;
pub(crate) mod summary;

pub(crate) use dead_queue::{DeadError, DeadQueue};
pub(crate) use filter::Filter;
pub(crate) use letter::{DeadLetter, DeadQueueKind};

/// How many letters were looked at so far, of how many that were there at the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Looked at.
    pub seen: u32,
    /// There at the beginning.
    pub total: u32,
    /// Replayed or dropped.
    pub done: u64,
}
