//! An HTTP call to an API, with all its limits.

use std::{borrow::Cow, time::Duration};

use jiff::Timestamp;
use reqwest::{
    Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER},
};
use secrecy::ExposeSecret;
use serde::Serialize;
use tokio::time::Instant;
use url::Url;

use super::{
    ErrorCause, TokenSource, UpstreamError,
    origin::{REFUSAL_BYTES_MAX, is_webex, tracking_id},
    rate_limit::RateLimit,
    token::is_token,
    transport::{CallFailure, CallStart, ClientError, Http, Network, Transport},
};
use crate::{
    clock::Clock,
    contract::{header, trace::TraceContext},
    ledger::Ledger,
    retry::{RETRY_AFTER_MAX, parse_retry_after},
    telemetry::{
        metrics::{CallTimer, UpstreamMetrics, labels::Called},
        traces::{DeliverySpan, Tracer},
    },
};

/// Minimum wait after a Retry-After; the same as in Cisco's SDK.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);

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
    name: &'static str,
    transport: Box<dyn Transport>,
    token: TokenSource,
    limits: UpstreamLimits,
    metrics: UpstreamMetrics,
    tracer: Tracer,
    rate_limit: RateLimit,
    clock: Clock,
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

/// Treatment of a response body that is too large.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Oversize {
    Malformed,
    Truncate,
}

/// Parts of a response.
struct ResponseParts {
    body: Vec<u8>,
    is_whole: bool,
    tracking_id: Option<String>,
    date: Option<Timestamp>,
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
    pub(crate) fn over(
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

    /// Sends the request and reads a response with a success status.
    async fn answer(
        &self,
        request: Request,
        subject: &str,
        span: &mut DeliverySpan,
        oversize: Oversize,
    ) -> Result<ResponseParts, UpstreamError> {
        let (response, start) =
            self.transport.call(request).await.map_err(|failure| self.unanswered(failure))?;
        let tracking_id = tracking_id(response.headers());
        span.set("http.response.status_code", i64::from(response.status().as_u16()));
        if let Some(id) = &tracking_id {
            span.set_list("http.response.header.trackingid", id);
        }
        if !response.status().is_success() {
            let refused = self.refused(response, start, tracking_id.as_deref()).await;
            let Some(wait) = refused.retry_after.filter(|_| refused.cause == ErrorCause::RateLimited) else {
                return Err(refused);
            };
            if self.rate_limit.is_for_subject_only(subject) {
                return Err(UpstreamError { cause: ErrorCause::Transient, ..refused });
            }
            self.metrics.rate_limited(self.rate_limit.set(wait).await);
            return Err(refused);
        }
        let status = response.status().as_u16();
        let date = date(response.headers());
        let bytes_max = self.limits.body_bytes_max;
        let read = self.bounded(response, start, bytes_max).await.and_then(|(body, is_whole)| {
            if is_whole || oversize == Oversize::Truncate {
                return Ok((body, is_whole));
            }
            Err(UpstreamError::malformed(self.name, format!("more than {bytes_max} bytes")))
        });
        let (body, is_whole) = read.map_err(|error| UpstreamError { status: Some(status), ..error })?;
        Ok(ResponseParts { body, is_whole, tracking_id, date })
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
    fn unanswered(&self, failure: CallFailure) -> UpstreamError {
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
        // The connection was reused for another name of the same certificate, but this server does not serve that name.
        if status == StatusCode::MISDIRECTED_REQUEST {
            self.transport.reconnect(start);
        }
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
        let retry_after = wait
            .map(|wait| wait.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX))
            .filter(|_| cause == ErrorCause::Transient);
        // Any other 4xx is about this request, such as a locked room or a request that is too early.
        let for_all = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
        let cause = if for_all && retry_after.is_some() { ErrorCause::RateLimited } else { cause };
        let origin = match tracking_id {
            Some(id) => format!(", tracking id {id}"),
            None if status.is_client_error() && !webex => {
                "; not a Webex response (no tracking id, no Webex error body): a proxy or load balancer answered"
                    .to_owned()
            }
            None if status.is_redirection() => "; redirects are not followed".to_owned(),
            None => String::new(),
        };
        UpstreamError {
            cause,
            status: Some(status.as_u16()),
            // Only a Webex response proves that nothing was done; behind a gateway, Webex may have acted.
            unknown: !(webex && status.is_client_error()),
            reason: format!("{} answered {}{origin}", self.name, status.as_u16()),
            retry_after,
        }
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

/// The longest wait of all Retry-After headers; `unreadable` for a header that cannot be parsed. A date is relative to
/// the Date header of the response, because our clock may differ; without that header, it is relative to `now`.
fn requested_wait(headers: &HeaderMap, now: Timestamp, unreadable: Duration) -> Option<Duration> {
    let now = date(headers).unwrap_or(now);
    let values = headers.get_all(RETRY_AFTER).iter();
    values.map(|value| value.to_str().ok().and_then(|value| longest(value, now)).unwrap_or(unreadable)).max()
}

/// The longest wait in a header value. A proxy may have joined two headers with a comma.
fn longest(value: &str, now: Timestamp) -> Option<Duration> {
    let parts: Vec<_> = value.split(',').map(str::trim).collect();
    // A date also contains a comma.
    let dates = parts.windows(2).map(|pair| pair.join(", "));
    let waits = parts.iter().map(|part| (*part).to_owned()).chain(dates);
    waits.filter_map(|wait| parse_retry_after(&wait, now)).max()
}

fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let date = headers.get(DATE)?.to_str().ok()?;
    Timestamp::try_from(httpdate::parse_http_date(date).ok()?).ok()
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let (false, Ok(value)) = (value.is_empty(), HeaderValue::from_str(value)) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_date_is_relative_to_the_response_date() {
        let minute = Duration::from_secs(60);
        let wait = |headers: &[(&'static str, String)]| {
            let headers = headers.iter().map(|(name, value)| {
                (reqwest::header::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            });
            requested_wait(&headers.collect(), Timestamp::now(), minute)
        };
        let date = |seconds: i64| {
            let at = Timestamp::from_second(Timestamp::now().as_second() + seconds).unwrap();
            httpdate::fmt_http_date(at.into())
        };
        // Clocks that are an hour slow and an hour fast.
        for wrong in [-3600, 3600] {
            let headers = [("date", date(wrong)), ("retry-after", date(wrong + 30))];
            assert_eq!(wait(&headers), Some(Duration::from_secs(30)));
        }
        let without = wait(&[("retry-after", date(30))]).unwrap();
        assert!((28..=30).contains(&without.as_secs()), "{without:?}");
        assert_eq!(wait(&[("date", date(0)), ("retry-after", "7".to_owned())]), Some(Duration::from_secs(7)));
        assert_eq!(wait(&[("retry-after", "soon".to_owned())]), Some(minute));
        assert_eq!(wait(&[("date", date(0))]), None);
        assert_eq!(wait(&[("retry-after", String::new())]), Some(minute));
    }

    #[test]
    fn longest_of_several_waits_applies() {
        let minute = Duration::from_secs(60);
        let in_90 = "Sat, 21 Nov 2026 12:01:30 GMT";
        for (values, seconds) in [
            (vec!["2", "40"], 40),
            (vec!["40", "2"], 40),
            (vec!["2, 40"], 40),
            (vec!["2", "soon"], 60),
            (vec!["2", in_90], 90),
            (vec![&format!("2, {in_90}")], 90),
            (vec![&format!("{in_90}, Sat, 21 Nov 2026 12:00:05 GMT"), "7"], 90),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(DATE, HeaderValue::from_static("Sat, 21 Nov 2026 12:00:00 GMT"));
            for value in &values {
                headers.append(RETRY_AFTER, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(
                requested_wait(&headers, Timestamp::now(), minute),
                Some(Duration::from_secs(seconds)),
                "{values:?}"
            );
        }
    }
}
