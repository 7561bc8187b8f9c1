//! The wire contract: the start event, the outgoing link messages, their ids and headers.
//!
//! This module uses no other module of the crate. Names, numbers, room addresses and links are held in types that never
//! print their value (see [`private`]).

#![warn(missing_docs)]

pub mod asyncapi;
pub mod cloud_event;
pub mod decode;
pub mod device;
pub mod http;
pub mod identity;
pub mod ids;
pub mod link;
pub mod message;
pub mod outgoing;
pub mod people;
mod places;
pub mod private;
pub mod receipt;
pub mod schemas;
pub mod stage;
pub mod start_session;
pub mod time;
pub mod trace;

/// Maximum size of a start event's body, in bytes. Larger bodies are not parsed.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// Names of message headers.
pub mod header {
    /// W3C Trace Context, `00-{trace id}-{parent id}-{flags}`.
    pub const TRACEPARENT: &str = "traceparent";
    /// W3C Trace Context, vendor-specific part; passed on unchanged within the same trace.
    pub const TRACESTATE: &str = "tracestate";
    /// Read by RabbitMQ's message deduplication plugin; equal to `message_id`.
    pub const DEDUPLICATION: &str = "x-deduplication-header";
    /// Class of a dead letter, one of a closed set.
    pub const DEAD_CLASS: &str = "x-dead-class";
    /// Reason why a message is dead, as text for people.
    pub const DEAD_REASON: &str = "x-dead-reason";
    /// Time at which a message was dead-lettered, RFC 3339.
    pub const DEAD_AT: &str = "x-dead-at";
    /// Number of counted attempts.
    pub const ATTEMPTS: &str = "x-attempts";
    /// Kind of failure that sent a message to a delay queue.
    pub const RETRY_REASON: &str = "x-retry-reason";
    /// Milliseconds that a message has waited between counted attempts.
    pub const WAITED: &str = "x-waited-ms";
    /// Earliest time of the next attempt of a delayed message, RFC 3339.
    pub const NOT_BEFORE: &str = "x-not-before";
    /// Delay or replay queue that this program published the copy to. The worker uses it to tell its own headers from
    /// those of other programs.
    pub const COPIED_TO: &str = "x-copied-to";
    /// Number of earlier deliveries of a message by a quorum queue; set by RabbitMQ.
    pub const DELIVERY_COUNT: &str = "x-delivery-count";
    /// Number of replays of a dead letter.
    pub const REPLAYS: &str = "x-replays";
    /// Time of the last replay, RFC 3339. A replay restarts the count of attempts.
    pub const REPLAYED_AT: &str = "x-replayed-at";
    /// Id of the dead letter that a replayed message was.
    pub const REPLAY_OF: &str = "x-replay-of";
    /// Time of a message's first failure, RFC 3339.
    pub const FIRST_FAILED_AT: &str = "x-first-failed-at";
}
