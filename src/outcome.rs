//! Outcomes of a message, and the classes of dead letters.

use std::{fmt, time::Duration};

use futures_util::future::BoxFuture;
use strum::{EnumDiscriminants, EnumString, IntoStaticStr, VariantArray};
use uuid::Uuid;

use crate::contract::outgoing::Outgoing;

/// The decision of a stage about a message. Only the runtime carries it out.
#[derive(Debug)]
pub enum Outcome {
    /// Publish all these messages, confirmed and routed; then acknowledge.
    Done(Batch),
    /// The event was already done according to the ledger: like [`Self::Done`], but no API was called.
    DoneBefore(Batch),
    /// A temporary failure: put a copy into a delay queue. The attempt counts only if the failure is the event's own and has
    /// no `Retry-After`.
    TryAgain(Failure),
    /// The API refuses our token, or the ledger is unavailable: stop consuming, and put a copy into a delay queue. No attempt
    /// counts, unless the API refuses the token for this event alone.
    Wait(Failure),
    /// No retry can succeed: publish the message to the dead queue, then acknowledge.
    Dead(Death),
    /// Processing took too long: requeue the message; its delivery counts.
    Requeued,
}

/// Messages that are published together, and a callback for those that the broker confirms.
#[derive(Debug, Default)]
pub struct Batch {
    pub outgoing: Vec<Outgoing>,
    /// Receives the ids of the messages that the broker confirmed.
    pub then: Then,
    /// The API rejected the message, and another stage takes it over. It shows that the API responds, but nothing else.
    pub is_rejection: bool,
}

/// Receives the `message_id`s of the messages that the broker confirmed.
#[derive(Default)]
pub struct Then(Option<Box<dyn Learn>>);

/// A receiver of the ids of confirmed messages.
pub trait Learn: Send {
    /// Handles the ids of all messages confirmed so far, including those of earlier calls.
    fn confirmed(&mut self, message_ids: Vec<Uuid>) -> BoxFuture<'_, ()>;
}

impl Batch {
    /// Creates a batch of `outgoing`. `then` receives the `message_id`s of the messages that the broker confirmed.
    pub fn followed_by(outgoing: Vec<Outgoing>, then: impl Learn + 'static) -> Self {
        Self { outgoing, then: Then(Some(Box::new(then))), is_rejection: false }
    }
}

impl From<Vec<Outgoing>> for Batch {
    fn from(outgoing: Vec<Outgoing>) -> Self {
        Self { outgoing, then: Then::default(), is_rejection: false }
    }
}

impl Then {
    /// Passes on the ids of confirmed messages. Does nothing if there are none.
    pub async fn confirmed(&mut self, message_ids: Vec<Uuid>) {
        if let Some(then) = self.0.as_mut().filter(|_| !message_ids.is_empty()) {
            then.confirmed(message_ids).await;
        }
    }
}

impl fmt::Debug for Then {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Then({})", self.0.is_some())
    }
}

/// The cause of a temporary failure: the header `x-retry-reason`, and a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case", const_into_str)]
pub enum Cause {
    /// No connection, a time limit exceeded, or a response that says "later".
    Unavailable,
    /// The API set a rate limit.
    RateLimited,
    /// The response is malformed.
    Malformed,
    /// The API refuses our token.
    Token,
    /// Another worker is processing the same event, or the message waits for its turn.
    Busy,
    /// The ledger could not be read or written.
    Ledger,
    /// The message may have been sent, and its receipt may still come.
    Receipt,
}

impl Cause {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.into_str()
    }
}

/// A failure that is not the message's fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The cause.
    pub cause: Cause,
    /// The reason, in words; contains nothing private.
    pub reason: String,
    /// The wait that the API requested, or a second if another worker has the event.
    pub retry_after: Option<Duration>,
}

/// The reason for which a message is dead-lettered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// The class, for metrics, headers and filters.
    pub class: Class,
    /// The reason, in words; contains nothing private.
    pub reason: String,
}

impl Death {
    /// Creates a death of `class` for `reason`, which must contain nothing private.
    pub fn new(class: Class, reason: impl fmt::Display) -> Self {
        Self { class, reason: reason.to_string() }
    }
}

/// The classes of dead letters: values of the header `x-dead-class`, of a metric label and of a filter.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EnumString, IntoStaticStr, VariantArray,
)]
#[strum(serialize_all = "kebab-case", const_into_str, parse_err_ty = String, parse_err_fn = unknown_class)]
pub enum Class {
    /// The message violates the contract.
    Invalid,
    /// The event names a device that `devices.allowed` does not list.
    DeviceNotAllowed,
    /// The API permanently refused this request.
    Rejected,
    /// The session ended before it could be processed.
    Expired,
    /// All attempts, or all messages to one number in an hour, were used up. The message itself is valid, so it can be replayed.
    Exhausted,
    /// No queue is bound to the routing key of a message to publish.
    Unroutable,
    /// Repeatedly delivered without an outcome.
    Poison,
    /// A defect of this program.
    Internal,
}

impl Class {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.into_str()
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn unknown_class(_: &str) -> String {
    format!("expected one of {}", names::<Class>())
}

/// The texts of all values of `T`, separated by commas.
pub(crate) fn names<T: VariantArray + Copy + Into<&'static str>>() -> String {
    T::VARIANTS.iter().map(|value| (*value).into()).collect::<Vec<&str>>().join(", ")
}

/// Result of settling a delivery. Its kind is the outcome in logs, spans and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumDiscriminants)]
#[strum_discriminants(
    name(SettledKind),
    doc = "The kind of a [`Settled`]: label `outcome`.",
    derive(IntoStaticStr, VariantArray),
    strum(serialize_all = "kebab-case", const_into_str)
)]
pub enum Settled {
    /// All messages are published and confirmed; the delivery is acknowledged.
    Done,
    /// The message is in the dead queue; the delivery is acknowledged.
    Dead(Class),
    /// A copy waits in a delay queue; the delivery is acknowledged. The attempt counts if the failure
    /// is the message's own and has no `Retry-After`.
    TryAgain(Cause),
    /// A copy waits in a delay queue; the delivery is acknowledged. No attempt counts: the API is down, sets a
    /// rate limit or refuses our token, the ledger is unavailable, or the same event is in progress or has just failed.
    Wait(Cause),
    /// The message returned too early. A copy waits in a delay queue again; the delivery is acknowledged.
    Early,
    /// Requeued: processing took too long, or the worker stopped or panicked.
    Requeued,
    /// Requeued: publishing or settling failed.
    Unfulfilled,
    /// The channel is closed; the broker redelivers the message.
    Lost,
}

impl Settled {
    /// The value of `outcome` in logs, spans and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        SettledKind::from(self).into_str()
    }

    /// The class of the dead letter, or the cause of the failure.
    #[must_use]
    pub const fn class(self) -> Option<&'static str> {
        match self {
            Self::Dead(class) => Some(class.as_str()),
            Self::TryAgain(cause) | Self::Wait(cause) => Some(cause.as_str()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_and_cause_names_match_the_contract() {
        assert_eq!(
            names::<Class>(),
            "invalid, device-not-allowed, rejected, expired, exhausted, unroutable, poison, internal"
        );
        assert_eq!(names::<Cause>(), "unavailable, rate-limited, malformed, token, busy, ledger, receipt");
    }

    #[test]
    fn every_class_parses_from_its_name() {
        for class in Class::VARIANTS.iter().copied() {
            assert_eq!(class.to_string().parse(), Ok(class));
        }
        assert!("other".parse::<Class>().unwrap_err().contains("device-not-allowed"));
    }
}
