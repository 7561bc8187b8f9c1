//! Inspection, replay and dropping of dead letters while workers run.
//!
//! AMQP can read a message only by consuming it. A [`DeadQueue`] consumes the letters of a dead queue one after the other
//! and leaves those unacknowledged that it does not change. The broker requeues them when the channel closes, or when
//! the program is killed. Only small parts of a letter are kept, so memory does not grow with the queue.
//! Only one command can open a dead queue at a time: an exclusive queue is its lock, which ends with the connection.
//!
//! # Replay
//! A letter returns in two steps through the queue `{queue}.replay`. If the program is killed at any moment, no letter is
//! lost or duplicated:
//!
//! 1. Copies with reset attempts are published there with confirms, then their letters are acknowledged. After a kill in
//!    between, both letter and copy exist. The next replay reads the copies first, finds their letters by id, and only
//!    acknowledges these. An acknowledgement that was sent can still be lost with its channel, because RabbitMQ's quorum
//!    queue client delays some if there are many. So the channel is closed, and the letters are counted again.
//! 2. When none of the letters is left, the copies are rejected, and the broker itself moves them to the work queue
//!    (at-least-once dead-lettering). If a rejection is lost, its copy stays there and is rejected again.
//!
//! Two limits remain. A broker node that fails may move a copy twice, under the same `message_id`. Another client that
//! consumes letters at the same time (RabbitMQ's management page) can hide them from the count.
//!
//! - [`letter`]: the contents of a letter
//! - [`filter`]: selection of letters
//! - [`dead_queue`]: an open and locked dead queue
//! - [`reader`]: reads and acknowledges its letters
//! - [`error`]: the reasons of failures
//! - [`summary`]: the output of `list` and `show`
//! - [`replay`], [`discard`]: the commands that change something

pub(crate) mod dead_queue;
pub(crate) mod discard;
pub(crate) mod error;
pub(crate) mod filter;
pub(crate) mod letter;
pub(crate) mod reader;
pub(crate) mod replay;
pub(crate) mod summary;

pub(crate) use dead_queue::DeadQueue;
pub(crate) use error::DeadError;
pub(crate) use filter::Filter;
pub(crate) use letter::{DeadLetter, work_queue, work_queues};

/// Progress of a command on one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Letters read so far.
    pub seen: u32,
    /// Letters at the start.
    pub total: u32,
    /// Letters replayed or dropped.
    pub done: u64,
}
