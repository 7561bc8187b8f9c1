//! Reasons that a command on dead letters fails.

use super::reader::{DELIVERIES_MAX, OPEN_MAX};
use crate::broker::{connection::BrokerError, topology::TopologyError};

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
        "{0}: letters were delivered {DELIVERIES_MAX} times and the queue's delivery limit is unknown, so RabbitMQ may drop them; hint: give the queue the arguments that `topology` prints, and grant the user `configure` on it, so that this command can compare them"
    )]
    DeliveryLimit(String),
    /// The broker did not accept the copy of a letter.
    #[error("{queue}: the broker {problem}; no letter was acknowledged; hint: try again")]
    Unpublished {
        /// The queue for the copy.
        queue: String,
        /// The broker's reply.
        problem: &'static str,
    },
    /// The time limit has passed.
    #[error("{0}: not finished within {OPEN_MAX:?}; hint: use a filter")]
    TimeUp(String),
}
