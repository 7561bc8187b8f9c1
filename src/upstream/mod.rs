//! Common parts of the clients of Webex's APIs: one HTTP client each, a token that can rotate, size and time limits for responses, and failures classified by the possible reaction.

mod http;
mod origin;
mod proxy;
mod rate_limit;
mod response;
mod token;
pub mod transport;

use std::{fmt, time::Duration};

pub use http::{ApiResponse, Credential, Upstream, UpstreamLimits};
pub use proxy::{Proxies, Proxy, ProxyError};
pub use rate_limit::parse_retry_after;
pub use token::{TokenError, TokenSource};
pub use transport::{ClientError, Network};

use crate::{
    outcome::{self, Class, Death, Failure, Outcome},
    telemetry::metrics::labels::Called,
};

/// Class of an API failure, by the possible reaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCause {
    /// Transient failure: no connection, a timeout, 408, 421, 423, 425, 429, 5xx, or a refusal by a proxy. If it has a
    /// wait, only this request must wait.
    Transient,
    /// The API requires a wait before every call: 429, or 5xx with a Retry-After.
    RateLimited,
    /// The API rejected our token; no call succeeds until the token is replaced.
    Token,
    /// The API rejects this request permanently.
    Request,
    /// The response does not match the API's documentation.
    Malformed,
    /// The session ended before the API had its usual time to respond, which is not a failure of the API.
    SessionOver,
}

/// A failed call. Contains no part of the request, and of the response only the status and the tracking id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamError {
    pub cause: ErrorCause,
    /// HTTP status of the response, if there was one. A success status means that the body could not be read.
    pub status: Option<u16>,
    /// True if the request may have had its effect.
    pub unknown: bool,
    /// Error text for a person.
    pub reason: String,
    /// The wait that the API requires.
    pub retry_after: Option<Duration>,
    /// The API's own code for the reason, if it has codes.
    pub code: Option<u32>,
}

impl UpstreamError {
    /// An unusable response; `problem` describes the defect and contains no part of the response.
    pub(crate) fn malformed(api: &str, problem: impl fmt::Display) -> Self {
        Self {
            cause: ErrorCause::Malformed,
            status: None,
            unknown: true,
            reason: format!("{api}: malformed response: {problem}"),
            retry_after: None,
            code: None,
        }
    }

    /// The metric label of this failure.
    pub(crate) fn called(&self) -> Called {
        match self.cause {
            ErrorCause::RateLimited => Called::RateLimited,
            ErrorCause::Transient if self.retry_after.is_some() => Called::RateLimited,
            ErrorCause::Transient => Called::Unavailable,
            ErrorCause::Token => Called::Token,
            ErrorCause::Request => Called::Rejected,
            ErrorCause::Malformed => Called::Malformed,
            ErrorCause::SessionOver => Called::Abandoned,
        }
    }

    /// Outcome of the message for which the call was made.
    #[must_use]
    pub fn into_outcome(self) -> Outcome {
        let cause = match self.cause {
            ErrorCause::Token => outcome::Cause::Token,
            ErrorCause::Malformed => outcome::Cause::Malformed,
            ErrorCause::RateLimited => outcome::Cause::RateLimited,
            _ => outcome::Cause::Unavailable,
        };
        let failure = Failure { cause, reason: self.reason, retry_after: self.retry_after };
        match self.cause {
            ErrorCause::Transient | ErrorCause::RateLimited | ErrorCause::Malformed => {
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
