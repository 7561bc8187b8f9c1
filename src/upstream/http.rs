//! An HTTP call to an API, with all its limits.

use std::{borrow::Cow, time::Duration};

use jiff::Timestamp;
use reqwest::{
    Method, Request,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use secrecy::ExposeSecret;
use serde::Serialize;
use tokio::time::Instant;
use url::Url;

use super::{
    ErrorCause, TokenSource, UpstreamError,
    rate_limit::{RETRY_AFTER_MIN, RateLimit},
    response::{Accept, ResponseParts},
    token::is_token,
    transport::{CallFailure, ClientError, Http, Network, Transport},
};
use crate::{
    clock::Clock,
    contract::{header, trace::TraceContext},
    ledger::Ledger,
    retry::RETRY_AFTER_MAX,
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

/// Form in which a request carries the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// `Authorization: Bearer`: a bot token of Webex, or a JWT for Webex Connect.
    Bearer,
    /// The header `key`: a service key of Webex Connect ("API authentication" in its developer reference).
    Key,
}

/// An API that is called with a token.
#[derive(Debug)]
pub struct Upstream {
    pub(super) name: &'static str,
    pub(super) transport: Box<dyn Transport>,
    token: TokenSource,
    credential: Credential,
    pub(super) limits: UpstreamLimits,
    pub(super) metrics: UpstreamMetrics,
    tracer: Tracer,
    pub(super) rate_limit: RateLimit,
    pub(super) clock: Clock,
}

/// A response. The metrics count it as malformed until its reader [marks it as usable](ApiResponse::mark_ok).
#[derive(Debug)]
pub struct ApiResponse {
    /// The status: a success, except for [`Upstream::post_for_any_status`].
    pub status: u16,
    /// The body, within [`UpstreamLimits::body_bytes_max`].
    pub body: Vec<u8>,
    /// Tracking id for Cisco's support, if the response has one.
    pub tracking_id: Option<String>,
    /// True if the whole body was read. Always true, except for [`Upstream::get_beginning`].
    pub is_whole: bool,
    /// Time of the response, by the API's clock.
    pub date: Option<Timestamp>,
    /// The wait that the API requests in its headers.
    pub retry_after: Option<Duration>,
    call: CallTimer,
    started: Instant,
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
        let (tracer, rate_limit, credential) = (Tracer::default(), RateLimit::default(), Credential::Bearer);
        Self { name, transport, token, credential, limits, metrics, tracer, rate_limit, clock }
    }

    /// Stores the API's rate limit in `ledger` under `key`. The limit then also applies after a restart, and to the other
    /// workers on the same Redis.
    #[must_use]
    pub fn sharing_rate_limits_in(self, ledger: Ledger, key: &str) -> Self {
        Self { rate_limit: RateLimit::stored_in(ledger, format!("rest:{key}")), ..self }
    }

    /// Sends the token as `credential`.
    #[must_use]
    pub fn authenticated_by(self, credential: Credential) -> Self {
        Self { credential, ..self }
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
        self.send(self.json(url, body)?, subject, trace, limit, Accept::Success).await
    }

    /// Like [`Upstream::post`], but returns a response of any status, for an API whose body has a code that the status does not show.
    /// The caller calls [`Upstream::accepted`] or [`Upstream::refused_with`] with it.
    ///
    /// # Errors
    /// [`UpstreamError`] if there was no call or no complete response.
    pub async fn post_for_any_status<B: Serialize + Sync>(
        &self,
        url: Url,
        body: &B,
        subject: &str,
        trace: &TraceContext,
        limit: Duration,
    ) -> Result<ApiResponse, UpstreamError> {
        self.send(self.json(url, body)?, subject, trace, limit, Accept::Any).await
    }

    /// Marks `response` as usable: the API did what the call for `subject` asked.
    pub fn accepted(&self, mut response: ApiResponse, subject: &str) {
        response.mark_ok();
        self.rate_limit.succeeded(subject, response.started);
    }

    /// Counts `response` as the refusal `error`, and applies its rate limit: to `subject` only, if others are not limited. A limit
    /// without a wait gets the configured one; a failure of the API with a wait is a limit.
    pub async fn refused_with(
        &self,
        mut response: ApiResponse,
        subject: &str,
        mut error: UpstreamError,
    ) -> UpstreamError {
        let is_failure = error.cause == ErrorCause::Transient && response.status >= 500;
        if is_failure && error.retry_after.is_some() {
            error.cause = ErrorCause::RateLimited;
        }
        error.retry_after = match error.cause {
            ErrorCause::RateLimited => Some(error.retry_after.unwrap_or(self.limits.rate_limit_wait)),
            ErrorCause::Transient => error.retry_after,
            _ => None,
        }
        .map(|wait| wait.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX));
        let error = self.limited(error, subject).await;
        if error.cause == ErrorCause::Request {
            self.rate_limit.succeeded(subject, response.started);
        }
        response.call.set(error.called());
        error
    }

    fn json<B: Serialize>(&self, url: Url, body: &B) -> Result<Request, UpstreamError> {
        let mut request = Request::new(Method::POST, url);
        let json = serde_json::to_vec(body).map_err(|_| self.unanswered(CallFailure::Other))?;
        *request.body_mut() = Some(json.into());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(request)
    }

    /// Gets `url`, within the configured timeout; no session limits the time.
    ///
    /// # Errors
    /// As [`Upstream::post`].
    pub async fn get(&self, url: Url, trace: &TraceContext) -> Result<ApiResponse, UpstreamError> {
        self.send(Request::new(Method::GET, url), "", trace, Duration::MAX, Accept::Success).await
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
        self.send(Request::new(Method::GET, url), subject, trace, Duration::MAX, Accept::Beginning).await
    }

    async fn send(
        &self,
        mut request: Request,
        subject: &str,
        trace: &TraceContext,
        limit: Duration,
        accept: Accept,
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
        let (name, value) = self.authorization()?;
        request.headers_mut().insert(name, value);
        *request.timeout_mut() = Some(limit.min(self.limits.timeout));
        let mut span = self.tracer.call(request.method().as_str(), request.url(), trace);
        insert(request.headers_mut(), header::TRACEPARENT, &span.context().traceparent());
        insert(request.headers_mut(), header::TRACESTATE, span.context().tracestate().unwrap_or_default());
        let (mut call, started) = (self.metrics.begin(), Instant::now());
        let result = self.answer(request, subject, &mut span, accept).await;
        // A list of sent messages may succeed for a recipient whose messages are rate limited.
        if accept == Accept::Success && !matches!(&result, Err(error) if error.cause != ErrorCause::Request) {
            self.rate_limit.succeeded(subject, started);
        }
        let is_cut = limit < self.limits.timeout && started.elapsed() >= limit;
        let result = result.map_err(|error| if is_cut { self.session_over(error) } else { error });
        if let Err(error) = &result {
            span.fail(kind(error), &error.reason);
        }
        call.set(result.as_ref().map_or_else(UpstreamError::called, |_| Called::Malformed));
        result.map(|ResponseParts { status, body, is_whole, tracking_id, date, retry_after }| ApiResponse {
            status,
            body,
            tracking_id,
            is_whole,
            date,
            retry_after,
            call,
            started,
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
            code: None,
        }
    }

    fn authorization(&self) -> Result<(HeaderName, HeaderValue), UpstreamError> {
        let refused = |reason| UpstreamError {
            cause: ErrorCause::Token,
            status: None,
            unknown: false,
            reason,
            retry_after: None,
            code: None,
        };
        let token = self.token.current().map_err(|error| refused(format!("{}: {error}", self.name)))?;
        let (name, scheme) = match self.credential {
            Credential::Bearer => (AUTHORIZATION, "Bearer "),
            Credential::Key => (HeaderName::from_static("key"), ""),
        };
        let value = is_token(&token)
            .then(|| HeaderValue::from_str(&format!("{scheme}{}", token.expose_secret())).ok())
            .flatten();
        let mut value = value.ok_or_else(|| {
            refused(format!(
                "{}: the token is empty, or has characters that an HTTP header cannot carry",
                self.name
            ))
        })?;
        value.set_sensitive(true);
        Ok((name, value))
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
