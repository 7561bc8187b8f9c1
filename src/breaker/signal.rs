//! The meaning of an outcome for the API.

use std::time::Duration;

use crate::outcome::{Cause, Class, Outcome};

/// Classifies an outcome as success, failure or neutral.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// The API responded.
    Success,
    /// The API failed.
    Failure,
    /// No call can succeed for now; with a rate limit, for this long.
    Blocked(Option<Duration>),
    /// The API was not called, because the ledger had the result.
    LedgerSuccess,
    /// The API was not called.
    Neutral,
}

impl Signal {
    pub(super) fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Done(_) => Self::Success,
            // Otherwise each duplicate event would close the breaker during an outage.
            Outcome::DoneBefore(_) => Self::LedgerSuccess,
            Outcome::Dead(death) if death.class == Class::Rejected => Self::Success,
            Outcome::TryAgain(failure) | Outcome::Wait(failure) => match (failure.cause, failure.retry_after)
            {
                (Cause::Busy | Cause::Receipt, _) => Self::Neutral,
                (Cause::Token | Cause::Ledger, _) => Self::Blocked(None),
                (Cause::RateLimited, wait) => Self::Blocked(wait),
                (Cause::Unavailable | Cause::Malformed, _) => Self::Failure,
            },
            Outcome::Dead(_) | Outcome::Requeued => Self::Neutral,
        }
    }
}
