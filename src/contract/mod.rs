//! What crosses the wire: the start event, the links that go out, their ids and headers.
//!
//! This module knows nobody else in the crate. Everything that names a person, a number, a room or a link is
//! held in a type that cannot be printed (see [`private`]).

#![warn(missing_docs)]

pub mod cloud_event;
pub mod decode;
pub mod device;
pub mod ids;
pub mod link;
pub mod message;
pub mod people;
mod places;
pub mod private;
pub mod schemas;
pub mod start_session;
pub mod time;
pub mod trace;

/// Largest start event body that is looked at, in bytes.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// Names of the message headers that others read.
pub mod header {
    /// W3C Trace Context, `00-{trace id}-{parent id}-{flags}`.
    pub const TRACEPARENT: &str = "traceparent";
    /// W3C Trace Context, vendor part; passed on as it came.
    pub const TRACESTATE: &str = "tracestate";
    /// Read by RabbitMQ's message deduplication plugin; equal to `message_id`.
    pub const DEDUPLICATION: &str = "x-deduplication-header";
    /// Why a message is dead: one of the closed set of classes.
    pub const DEAD_CLASS: &str = "x-dead-class";
    /// Why a message is dead, for a person.
    pub const DEAD_REASON: &str = "x-dead-reason";
    /// When a message died, RFC 3339.
    pub const DEAD_AT: &str = "x-dead-at";
    /// How many attempts were counted against a message.
    pub const ATTEMPTS: &str = "x-attempts";
    /// What kind of failure sent a message to a hold queue.
    pub const RETRY_REASON: &str = "x-retry-reason";
    /// How many milliseconds a message has waited between attempts that were counted.
    pub const WAITED: &str = "x-waited-ms";
    /// When a message that was held back may be tried again, RFC 3339.
    pub const NOT_BEFORE: &str = "x-not-before";
    /// The hold or replay queue that this copy was put into. Only with it the headers of our names are believed.
    pub const COPIED_TO: &str = "x-copied-to";
    /// How often a quorum queue has delivered a message before; RabbitMQ's own.
    pub const DELIVERY_COUNT: &str = "x-delivery-count";
    /// How often a dead letter was replayed.
    pub const REPLAYS: &str = "x-replays";
    /// When a dead letter was replayed last, RFC 3339: attempts are counted from here on.
    pub const REPLAYED_AT: &str = "x-replayed-at";
    /// Which dead letter a message was: on its way back into its queue.
    pub const REPLAY_OF: &str = "x-replay-of";
    /// When a message first failed, RFC 3339.
    pub const FIRST_FAILED_AT: &str = "x-first-failed-at";
}
