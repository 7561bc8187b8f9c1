//! Reasons why a start event is refused.

use std::fmt;

use jiff::Timestamp;

use super::StartSession;
use crate::contract::{
    decode::{Invalid, Problem},
    message::Message,
};

/// Reason why an event is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The event is invalid.
    Invalid(Invalid),
    /// The event was valid when it was sent, but its session has ended since.
    Expired(Invalid),
    /// The device at this path is not on `devices.allowed`.
    DeviceNotAllowed(Invalid),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Invalid(invalid) | Self::Expired(invalid) | Self::DeviceNotAllowed(invalid)) = self;
        invalid.fmt(f)
    }
}

impl Refusal {
    pub(super) fn map(self, change: impl FnOnce(Invalid) -> Invalid) -> Self {
        match self {
            Self::Invalid(invalid) => Self::Invalid(change(invalid)),
            Self::Expired(invalid) => Self::Expired(change(invalid)),
            Self::DeviceNotAllowed(invalid) => Self::DeviceNotAllowed(change(invalid)),
        }
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

/// Classifies an invalid event. A past `expiresAt` means expired if the event was sent before that time, else invalid. An earlier
/// delivery or failure shows that the event was sent in time.
pub(super) fn refusal(
    invalid: Invalid,
    start: &StartSession,
    message: &Message,
    occurred_at: Option<Timestamp>,
) -> Refusal {
    let sent_in_time = message.first_failed_at().is_some()
        || message.deliveries() > 0
        || occurred_at.is_some_and(|at| start.expires_at.is_some_and(|end| at < end.timestamp()));
    if sent_in_time && *invalid.problem() == Problem::NotInTheFuture {
        Refusal::Expired(invalid)
    } else {
        Refusal::Invalid(invalid)
    }
}
