//! From an HTTP response to its body, or to an error that says what the worker can do.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::{Request, Response, StatusCode};

use super::{
    ErrorCause, Upstream, UpstreamError,
    origin::{REFUSAL_BYTES_MAX, is_webex, tracking_id},
    rate_limit::{RETRY_AFTER_MIN, date, requested_wait},
    transport::{CallFailure, CallStart},
};
use crate::{retry::RETRY_AFTER_MAX, telemetry::traces::DeliverySpan};

/// The responses that a call accepts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Accept {
    /// A whole body with a success status.
    Success,
    /// A success status. A body that is too large is truncated.
    Beginning,
    /// A whole body with any status.
    Any,
}

/// Parts of a response.
pub(super) struct ResponseParts {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    pub(super) is_whole: bool,
    pub(super) tracking_id: Option<String>,
    pub(super) date: Option<Timestamp>,
    pub(super) retry_after: Option<Duration>,
}

impl Upstream {
    /// Sends the request and reads a response that `accept` allows.
    pub(super) async fn answer(
        &self,
        request: Request,
        subject: &str,
        span: &mut DeliverySpan,
        accept: Accept,
    ) -> Result<ResponseParts, UpstreamError> {
        let (response, start) =
            self.transport.call(request).await.map_err(|failure| self.unanswered(failure))?;
        let tracking_id = tracking_id(response.headers());
        span.set("http.response.status_code", i64::from(response.status().as_u16()));
        if let Some(id) = &tracking_id {
            span.set_list("http.response.header.trackingid", id);
        }
        // The connection was reused for another name of the same certificate, but this server does not serve that name.
        if response.status() == StatusCode::MISDIRECTED_REQUEST {
            self.transport.reconnect(start);
        }
        if !response.status().is_success() && accept != Accept::Any {
            let refused = self.refused(response, start, tracking_id.as_deref()).await;
            return Err(self.limited(refused, subject).await);
        }
        let status = response.status().as_u16();
        let date = date(response.headers());
        let retry_after = requested_wait(response.headers(), self.clock.now(), self.limits.rate_limit_wait);
        let bytes_max = self.limits.body_bytes_max;
        let read = self.bounded(response, start, bytes_max).await.and_then(|(body, is_whole)| {
            if is_whole || accept == Accept::Beginning {
                return Ok((body, is_whole));
            }
            Err(UpstreamError::malformed(self.name, format!("more than {bytes_max} bytes")))
        });
        let (body, is_whole) = read.map_err(|error| UpstreamError { status: Some(status), ..error })?;
        Ok(ResponseParts { status, body, is_whole, tracking_id, date, retry_after })
    }

    /// Applies the rate limit of `refused`, if it has one: to `subject` only, if others are not limited.
    pub(super) async fn limited(&self, refused: UpstreamError, subject: &str) -> UpstreamError {
        let Some(wait) = refused.retry_after.filter(|_| refused.cause == ErrorCause::RateLimited) else {
            return refused;
        };
        if self.rate_limit.is_for_subject_only(subject) {
            return UpstreamError { cause: ErrorCause::Transient, ..refused };
        }
        self.metrics.rate_limited(self.rate_limit.set(wait).await);
        refused
    }

    /// Reads at most `bytes_max` bytes of the body; the flag is true if that is the whole body.
    async fn bounded(
        &self,
        mut response: Response,
        start: CallStart,
        bytes_max: usize,
    ) -> Result<(Vec<u8>, bool), UpstreamError> {
        let (mut body, mut is_whole) = (Vec::new(), true);
        while is_whole {
            let chunk = response.chunk().await.map_err(|error| {
                let failure = CallFailure::from(error);
                self.transport.failed(start, failure);
                self.unanswered(failure)
            })?;
            let Some(chunk) = chunk else { break };
            let fits = chunk.len().min(bytes_max - body.len());
            body.extend_from_slice(&chunk[..fits]);
            is_whole = fits == chunk.len();
        }
        self.transport.succeeded(start);
        Ok((body, is_whole))
    }

    /// Error for a call without a complete response. Names the failed step, not the URL, whose query may name a person.
    pub(super) fn unanswered(&self, failure: CallFailure) -> UpstreamError {
        let step = match failure {
            CallFailure::NoConnection(obstacle) => format!("no connection: {obstacle}"),
            CallFailure::TimedOut => "no response within the time limit".to_owned(),
            CallFailure::CutOff => "the response was cut off".to_owned(),
            CallFailure::Other => "the connection failed during the call".to_owned(),
        };
        let via =
            self.transport.proxy().map_or_else(String::new, |proxy| format!(" (through the proxy {proxy})"));
        UpstreamError {
            cause: ErrorCause::Transient,
            status: None,
            unknown: !matches!(failure, CallFailure::NoConnection(_)),
            reason: format!("{}: {step}{via}", self.name),
            retry_after: None,
            code: None,
        }
    }

    /// Error for a status other than success. A 4xx counts as Webex's decision only if the response is from Webex.
    async fn refused(
        &self,
        response: Response,
        start: CallStart,
        tracking_id: Option<&str>,
    ) -> UpstreamError {
        let (status, headers) = (response.status(), response.headers().clone());
        let webex = if status.is_client_error() && tracking_id.is_none() {
            let read = self.bounded(response, start, REFUSAL_BYTES_MAX).await;
            read.is_ok_and(|(body, is_whole)| is_whole && is_webex(&body))
        } else {
            self.transport.succeeded(start);
            tracking_id.is_some()
        };
        let cause = match status.as_u16() {
            407 | 408 | 421 | 423 | 425 | 429 | 500..=599 => ErrorCause::Transient,
            400..=499 if !webex => ErrorCause::Transient,
            401 => ErrorCause::Token,
            400..=499 => ErrorCause::Request,
            _ => ErrorCause::Malformed,
        };
        let wait = requested_wait(&headers, self.clock.now(), self.limits.rate_limit_wait);
        let wait =
            wait.or_else(|| (status == StatusCode::TOO_MANY_REQUESTS).then_some(self.limits.rate_limit_wait));
        let is_unprocessed = status == StatusCode::TOO_MANY_REQUESTS
            || (status == StatusCode::SERVICE_UNAVAILABLE && wait.is_some() && tracking_id.is_some());
        let retry_after = wait
            .map(|wait| wait.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX))
            .filter(|_| cause == ErrorCause::Transient);
        // Any other 4xx is about this request, such as a locked room or a request that is too early.
        let for_all = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
        let cause = if for_all && retry_after.is_some() { ErrorCause::RateLimited } else { cause };
        let origin = match tracking_id {
            Some(id) => format!(", tracking id {id}"),
            None if status.is_client_error() && !webex => {
                "; not a Webex response (no tracking id, no Webex error body): a proxy or load balancer responded"
                    .to_owned()
            }
            None if status.is_redirection() => "; redirects are not followed".to_owned(),
            None => String::new(),
        };
        UpstreamError {
            cause,
            status: Some(status.as_u16()),
            // A 4xx of Webex proves that nothing was done, and so does its 503 that names the time at which it can process requests
            // (RFC 9110, 15.6.4), or anybody's 429. Behind another gateway, Webex may have acted.
            unknown: !(is_unprocessed || (webex && status.is_client_error())),
            reason: format!("{} responded with {}{origin}", self.name, status.as_u16()),
            retry_after,
            code: None,
        }
    }
}
