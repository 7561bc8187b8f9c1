//! An HTTP call to an API, with all its limits.

use std::{borrow::Cow, time::Duration};

use jiff::Timestamp;
use reqwest::{
    Method, Request,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use secrecy::ExposeSecret;
use serde::Serialize;
use tokio::time::Instant;
use url::Url;

use super::{
    ErrorCause, TokenSource, UpstreamError,
    rate_limit::RateLimit,
    response::{Oversize, ResponseParts},
    token::is_token,
    transport::{CallFailure, ClientError, Http, Network, Transport},
};
use crate::{
    clock::Clock,
    contract::{header, trace::TraceContext},
    ledger::Ledger,
    telemetry::{
        metrics::{CallTimer, UpstreamMetrics, labels::Called},
        traces::Tracer,
    },
};

/// The limits of every call.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamLimits {
    /// Connect timeout, including TLS.
    pub connect_timeout: Duration,
    /// Timeout of the whole call, including the response body.
    pub timeout: Duration,
    /// Maximum size of a response body, in bytes.
    pub body_bytes_max: usize,
    /// Delay after a 429 without Retry-After.
    pub rate_limit_wait: Duration,
}

/// An API that is called with a bearer token.
#[derive(Debug)]
pub struct Upstream {
    pub(super) name: &'static str,
    pub(super) transport: Box<dyn Transport>,
    token: TokenSource,
    pub(super) limits: UpstreamLimits,
    pub(super) metrics: UpstreamMetrics,
    tracer: Tracer,
    pub(super) rate_limit: RateLimit,
    pub(super) clock: Clock,
}

/// A response with a success status. The metrics count it as malformed until its reader [marks it as
/// usable](ApiResponse::mark_ok).
#[derive(Debug)]
pub struct ApiResponse {
    /// The body, within [`UpstreamLimits::body_bytes_max`].
    pub body: Vec<u8>,
    /// Tracking id for Cisco's support, if the response has one.
    pub tracking_id: Option<String>,
    /// True if the whole body was read. Always true, except for [`Upstream::get_beginning`].
    pub is_whole: bool,
    /// Time of the response, by the API's clock.
    pub date: Option<Timestamp>,
    call: CallTimer,
}

impl ApiResponse {
    /// Marks the response as usable.
    pub fn mark_ok(&mut self) {
        self.call.set(Called::Ok);
    }
}

impl Upstream {
    /// A client for the API at `url`, reached over `network`; `name` is its name in errors.
    ///
    /// # Errors
    /// [`ClientError`] if the HTTP client or its TLS can't be set up.
    pub fn new(
        name: &'static str,
        url: &Url,
        token: TokenSource,
        limits: UpstreamLimits,
        network: &Network,
        metrics: UpstreamMetrics,
    ) -> Result<Self, ClientError> {
        Ok(Self::over(
            Box::new(Http::new(url, &limits, network)?),
            name,
            token,
            limits,
            metrics,
            Clock::system(),
        ))
    }

    /// A client that sends its requests over `transport`, in the time of `clock`.
    #[must_use]
    pub fn over(
        transport: Box<dyn Transport>,
        name: &'static str,
        token: TokenSource,
        limits: UpstreamLimits,
        metrics: UpstreamMetrics,
        clock: Clock,
    ) -> Self {
        let (tracer, rate_limit) = (Tracer::default(), RateLimit::default());
        Self { name, transport, token, limits, metrics, tracer, rate_limit, clock }
    }

    /// Stores the API's rate limit in `ledger` under `key`. The limit then also applies after a restart, and to the other
    /// workers on the same Redis.
    #[must_use]
    pub fn sharing_rate_limits_in(self, ledger: Ledger, key: &str) -> Self {
        Self { rate_limit: RateLimit::stored_in(ledger, format!("rest:{key}")), ..self }
    }

    /// Adds a span for each call.
    #[must_use]
    pub fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// The clock by which sessions end.
    pub(crate) const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// True if the token file now has another token than at the last call.
    pub(crate) fn has_new_token(&self) -> bool {
        self.token.is_replaced()
    }

    /// The API's name, for errors and logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Posts `body` as JSON, within the shorter of `limit` and the configured timeout. `subject` identifies the event or
    /// the recipient: if only one subject gets a Retry-After repeatedly, the limit applies to that subject only.
    ///
    /// # Errors
    /// [`UpstreamError`], classified by the possible reaction.
    pub async fn post<B: Serialize + Sync>(
        &self,
        url: Url,
        body: &B,
        subject: &str,
        trace: &TraceContext,
        limit: Duration,
    ) -> Result<ApiResponse, UpstreamError> {
        let mut request = Request::new(Method::POST, url);
        let json = serde_json::to_vec(body).map_err(|_| self.unanswered(CallFailure::Other))?;
        *request.body_mut() = Some(json.into());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.send(request, subject, trace, limit, Oversize::Malformed).await
    }

    /// Gets `url`, within the configured timeout; no session limits the time.
    ///
    /// # Errors
    /// As [`Upstream::post`].
    pub async fn get(&self, url: Url, trace: &TraceContext) -> Result<ApiResponse, UpstreamError> {
        self.send(Request::new(Method::GET, url), "", trace, Duration::MAX, Oversize::Malformed).await
    }

    /// Gets `url` for `subject`. A body that is too large is truncated.
    ///
    /// # Errors
    /// As [`Upstream::post`].
    pub async fn get_beginning(
        &self,
        url: Url,
        subject: &str,
        trace: &TraceContext,
    ) -> Result<ApiResponse, UpstreamError> {
        self.send(Request::new(Method::GET, url), subject, trace, Duration::MAX, Oversize::Truncate).await
    }

    async fn send(
        &self,
        mut request: Request,
        subject: &str,
        trace: &TraceContext,
        limit: Duration,
        oversize: Oversize,
    ) -> Result<ApiResponse, UpstreamError> {
        let since = Instant::now();
        if let Some(remaining) = self.rate_limit.remaining().await {
            let reason = "rate limited by the API (Retry-After); call skipped";
            return Err(self.not_called(ErrorCause::RateLimited, reason, Some(remaining)));
        }
        let limit = limit.saturating_sub(since.elapsed());
        // With a timeout of zero, the client may start to send before the timeout applies.
        if limit.is_zero() {
            let reason = "no time left before the session deadline; call skipped";
            return Err(self.not_called(ErrorCause::SessionOver, reason, None));
        }
        request.headers_mut().insert(AUTHORIZATION, self.authorization()?);
        *request.timeout_mut() = Some(limit.min(self.limits.timeout));
        let mut span = self.tracer.call(request.method().as_str(), request.url(), trace);
        insert(request.headers_mut(), header::TRACEPARENT, &span.context().traceparent());
        insert(request.headers_mut(), header::TRACESTATE, span.context().tracestate().unwrap_or_default());
        let (mut call, started) = (self.metrics.begin(), Instant::now());
        let result = self.answer(request, subject, &mut span, oversize).await;
        // A list of sent messages may succeed for a recipient whose messages are rate limited.
        let is_list = oversize == Oversize::Truncate;
        if !is_list && !matches!(&result, Err(error) if error.cause != ErrorCause::Request) {
            self.rate_limit.succeeded(subject, started);
        }
        let is_cut = limit < self.limits.timeout && started.elapsed() >= limit;
        let result = result.map_err(|error| if is_cut { self.session_over(error) } else { error });
        if let Err(error) = &result {
            span.fail(kind(error), &error.reason);
        }
        call.set(result.as_ref().map_or_else(UpstreamError::called, |_| Called::Malformed));
        result.map(|ResponseParts { body, is_whole, tracking_id, date }| ApiResponse {
            body,
            tracking_id,
            is_whole,
            date,
            call,
        })
    }

    /// Converts a failure at the end of the session. An error response is kept; anything else is not a failure of the
    /// API.
    fn session_over(&self, error: UpstreamError) -> UpstreamError {
        if error.status.is_some_and(|status| status >= 300) {
            return error;
        }
        let reason = format!("{}: no response before the session deadline", self.name);
        UpstreamError { cause: ErrorCause::SessionOver, reason, retry_after: None, ..error }
    }

    fn not_called(&self, cause: ErrorCause, reason: &str, retry_after: Option<Duration>) -> UpstreamError {
        UpstreamError {
            cause,
            status: None,
            unknown: false,
            reason: format!("{}: {reason}", self.name),
            retry_after,
        }
    }

    fn authorization(&self) -> Result<HeaderValue, UpstreamError> {
        let refused = |reason| UpstreamError {
            cause: ErrorCause::Token,
            status: None,
            unknown: false,
            reason,
            retry_after: None,
        };
        let token = self.token.current().map_err(|error| refused(format!("{}: {error}", self.name)))?;
        let value = is_token(&token)
            .then(|| HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())).ok())
            .flatten();
        let mut value = value.ok_or_else(|| {
            refused(format!(
                "{}: the token is empty, or has characters that an HTTP header cannot carry",
                self.name
            ))
        })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// Error type for spans, from a small set.
fn kind(error: &UpstreamError) -> Cow<'static, str> {
    match (error.cause, error.status) {
        (_, Some(status)) if status >= 400 => status.to_string().into(),
        (ErrorCause::Malformed, _) => "malformed".into(),
        _ if error.unknown => "no-answer".into(),
        _ => "no-connection".into(),
    }
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let (false, Ok(value)) = (value.is_empty(), HeaderValue::from_str(value)) {
        headers.insert(name, value);
    }
}
