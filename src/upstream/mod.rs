//! What the two Webex APIs have in common: one HTTP client each, a bearer token that may rotate, answers of
//! bounded size within bounded time, and failures sorted by what can be done about them.

mod http;
mod limited;
mod origin;
mod proxy;
mod rest;
mod token;
mod transport;

use std::{fmt, time::Duration};

pub use http::{Answer, Upstream, UpstreamLimits};
pub use proxy::{Proxies, Proxy, ProxyError};
pub use token::{TokenError, TokenSource};
#[cfg(test)]
pub(crate) use transport::Broken;
pub use transport::{Network, NoClient};

use crate::{
    contract::time::WireTime,
    outcome::{self, Class, Death, Failure, Outcome},
    telemetry::metrics::labels::Called,
};

/// What can be done about a failure of an API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCause {
    /// It may pass: no connection, a time limit, 408, 421, 423, 425, 429, 5xx, and what somebody in between refuses. With a wait, if
    /// this request is to wait, and others are not.
    Passing,
    /// The API asks for a wait before any call: 429, or 5xx with a Retry-After.
    RateLimited,
    /// Our token is refused: nothing will work until somebody acts.
    Token,
    /// This request is refused, and always will be.
    Request,
    /// The answer is not what the API's guide says.
    Malformed,
    /// The session ended before the API had its usual time to answer: that is not the API's failure.
    SessionOver,
}

/// Why a call brought no result. Shows nothing of the request, and of the answer only its status and tracking id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamError {
    /// What can be done.
    pub cause: ErrorCause,
    /// The answer's status, where there was one: also a status of success, whose body then could not be read.
    pub status: Option<u16>,
    /// Whether the request may have had its effect all the same.
    pub unknown: bool,
    /// What happened, for a person.
    pub reason: String,
    /// The wait that was asked for.
    pub retry_after: Option<Duration>,
}

impl UpstreamError {
    /// An answer that can't be believed; `problem` says why and shows nothing of it.
    pub(crate) fn malformed(api: &str, problem: impl fmt::Display) -> Self {
        Self {
            cause: ErrorCause::Malformed,
            status: None,
            unknown: true,
            reason: format!("{api}: malformed answer: {problem}"),
            retry_after: None,
        }
    }

    /// As the metrics have it.
    pub(crate) fn called(&self) -> Called {
        match self.cause {
            ErrorCause::RateLimited => Called::RateLimited,
            ErrorCause::Passing if self.retry_after.is_some() => Called::RateLimited,
            ErrorCause::Passing => Called::Unavailable,
            ErrorCause::Token => Called::Token,
            ErrorCause::Request => Called::Rejected,
            ErrorCause::Malformed => Called::Malformed,
            ErrorCause::SessionOver => Called::Abandoned,
        }
    }

    /// What becomes of the message that the call was made for, whose session ends at `deadline`.
    #[must_use]
    pub fn into_outcome(self, deadline: WireTime) -> Outcome {
        let cause = match self.cause {
            ErrorCause::Token => outcome::Cause::Token,
            ErrorCause::Malformed => outcome::Cause::Malformed,
            ErrorCause::RateLimited => outcome::Cause::RateLimited,
            _ => outcome::Cause::Unavailable,
        };
        let failure = Failure { cause, reason: self.reason, retry_after: self.retry_after, deadline };
        match self.cause {
            ErrorCause::Passing | ErrorCause::RateLimited | ErrorCause::Malformed => {
                Outcome::TryAgain(failure)
            }
            ErrorCause::Token => Outcome::Wait(failure),
            ErrorCause::Request => Outcome::Dead(Death::new(Class::Rejected, failure.reason)),
            ErrorCause::SessionOver => Outcome::Dead(Death::new(Class::Expired, failure.reason)),
        }
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for UpstreamError {}
