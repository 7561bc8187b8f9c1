//! What can become of a message: the closed set of outcomes, and the closed set of classes of dead letters.

use std::{fmt, time::Duration};

use futures_util::future::BoxFuture;
use strum::{EnumDiscriminants, EnumString, IntoStaticStr, VariantArray};
use uuid::Uuid;

use crate::contract::{link::Outgoing, time::WireTime};

/// What a stage says of a message. The runtime alone carries it out.
#[derive(Debug)]
pub enum Outcome {
    /// Publish all of these, confirmed and routed; then acknowledge.
    Done(Batch),
    /// The ledger says that it was done before: as [`Self::Done`], but no API was asked.
    DoneBefore(Batch),
    /// A failure that may pass: hold a copy back for a while, its attempt counted.
    TryAgain(Failure),
    /// The other side refuses our token: take no more messages, count nothing against this one.
    Wait(Failure),
    /// Nothing will make this succeed: publish it to the dead queue, then acknowledge.
    Dead(Death),
    /// It was kept for too long: give the message back, its delivery counted.
    Requeued,
}

/// Messages that are published together, and what follows once the broker has some or all of them.
#[derive(Debug, Default)]
pub struct Batch {
    /// The messages.
    pub outgoing: Vec<Outgoing>,
    /// Learns which of them the broker confirmed.
    pub then: Then,
}

/// Learns the `message_id`s of the messages that the broker confirmed.
#[derive(Default)]
pub struct Then(Option<Box<dyn Learn>>);

/// What learns which messages the broker confirmed.
pub trait Learn: Send {
    /// The broker confirmed the messages with these ids, and those that this was told of before.
    fn confirmed(&mut self, message_ids: Vec<Uuid>) -> BoxFuture<'_, ()>;
}

impl Batch {
    /// `outgoing`, followed by `then`, which learns the `message_id`s of the messages that the broker confirmed.
    pub fn followed_by(outgoing: Vec<Outgoing>, then: impl Learn + 'static) -> Self {
        Self { outgoing, then: Then(Some(Box::new(then))) }
    }
}

impl From<Vec<Outgoing>> for Batch {
    fn from(outgoing: Vec<Outgoing>) -> Self {
        Self { outgoing, then: Then::default() }
    }
}

impl Then {
    /// Tells that the broker confirmed the messages with these ids. Nothing follows if there are none.
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

/// What kind of failure passes: the header `x-retry-reason`, and a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case", const_into_str)]
pub enum Cause {
    /// No connection, a time limit, an answer that says "later".
    Unavailable,
    /// The other side asked to be left alone for a while.
    RateLimited,
    /// The answer can't be believed.
    Malformed,
    /// Our token is refused.
    Token,
    /// Another worker is at the same event.
    Busy,
    /// The ledger can't be read or written.
    Ledger,
}

impl Cause {
    /// As on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.into_str()
    }
}

/// A failure that is not the message's fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind it is.
    pub cause: Cause,
    /// What happened, for a person; shows nothing private.
    pub reason: String,
    /// How long the other side asked to be left alone.
    pub retry_after: Option<Duration>,
    /// When the session is over: nothing is sent for it from here on.
    pub deadline: WireTime,
}

/// Why a message is dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// For metrics, headers and filters.
    pub class: Class,
    /// For a person; shows nothing private.
    pub reason: String,
}

impl Death {
    /// A death of `class`, because of `reason`, which must show nothing private.
    pub fn new(class: Class, reason: impl fmt::Display) -> Self {
        Self { class, reason: reason.to_string() }
    }
}

/// The classes of dead letters: the header `x-dead-class`, a metric label, and a filter alike.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EnumString, IntoStaticStr, VariantArray,
)]
#[strum(serialize_all = "kebab-case", const_into_str, parse_err_ty = String, parse_err_fn = unknown_class)]
pub enum Class {
    /// The message breaks the contract.
    Invalid,
    /// The event names a device that `devices.allowed` does not list.
    DeviceNotAllowed,
    /// The API refused this request for good.
    Rejected,
    /// The session was over before it could be served.
    Expired,
    /// All attempts were used up.
    Exhausted,
    /// No queue is bound for a message that had to go out.
    Unroutable,
    /// Delivered again and again without an outcome.
    Poison,
    /// A defect of this program.
    Internal,
}

impl Class {
    /// As on the wire.
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
    /// A copy waits in a delay queue; the delivery is acknowledged. No attempt counts: the API is down or refuses our token, or
    /// the same event is in progress or has just failed.
    Wait(Cause),
    /// The message returned too early. A copy waits in a delay queue again; the delivery is acknowledged.
    Early,
    /// Requeued: processing took too long, or the worker stopped or panicked.
    Requeued,
    /// Requeued: the outcome could not be carried out.
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
        assert_eq!(names::<Cause>(), "unavailable, rate-limited, malformed, token, busy, ledger");
    }

    #[test]
    fn every_class_parses_from_its_name() {
        for class in Class::VARIANTS.iter().copied() {
            assert_eq!(class.to_string().parse(), Ok(class));
        }
        assert!("other".parse::<Class>().unwrap_err().contains("device-not-allowed"));
    }
}
