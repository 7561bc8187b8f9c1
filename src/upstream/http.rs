//! One HTTP call with all its limits.

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
    rest::Rest,
    token::is_token,
    transport::{Begun, Broken, Network, NoClient, Transport},
};
use crate::{
    clock,
    contract::{header, trace::TraceContext},
    ledger::Ledger,
    retry::{RETRY_AFTER_MAX, parse_retry_after},
    telemetry::{
        metrics::{CallTimer, UpstreamMetrics, labels::Called},
        traces::{DeliverySpan, Tracer},
    },
};

/// The shortest wait after a Retry-After, as Cisco's own SDK has it.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);

/// The limits of every call.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamLimits {
    /// For a connection to stand, TLS included.
    pub connect_timeout: Duration,
    /// For the whole call, the answer's body included.
    pub timeout: Duration,
    /// Largest answer that is read, in bytes.
    pub body_bytes_max: usize,
    /// The wait after a 429 that names none.
    pub rate_limit_wait: Duration,
}

/// An API that is called with a bearer token.
#[derive(Debug)]
pub struct Upstream {
    name: &'static str,
    transport: Transport,
    token: TokenSource,
    limits: UpstreamLimits,
    metrics: UpstreamMetrics,
    tracer: Tracer,
    rest: Rest,
}

/// An answer with a status of success. Whoever reads it says whether it [can be used](Answer::mark_ok): it counts as
/// malformed until then.
#[derive(Debug)]
pub struct Answer {
    /// The body, within [`UpstreamLimits::body_bytes_max`].
    pub body: Vec<u8>,
    /// What Cisco's support asks for, where the answer named it.
    pub tracking_id: Option<String>,
    /// Whether all of the body was read. Only where [its beginning](Upstream::get_beginning) was asked for it may not be.
    pub is_whole: bool,
    /// When it was made, by the API's own clock.
    pub date: Option<Timestamp>,
    call: CallTimer,
}

/// What a body that is too large comes to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Excess {
    IsMalformed,
    IsLeft,
}

/// An answer's parts.
struct Read {
    body: Vec<u8>,
    is_whole: bool,
    tracking_id: Option<String>,
    date: Option<Timestamp>,
}

impl Answer {
    /// It can be used.
    pub fn mark_ok(&mut self) {
        self.call.set(Called::Ok);
    }
}

impl Upstream {
    /// A client for the API called `name` (in errors), reached at `url` over `network`.
    ///
    /// # Errors
    /// Where no TLS can be set up on this machine.
    pub fn new(
        name: &'static str,
        url: &Url,
        token: TokenSource,
        limits: UpstreamLimits,
        network: &Network,
        metrics: UpstreamMetrics,
    ) -> Result<Self, NoClient> {
        Ok(Self::over(Transport::new(url, &limits, network)?, name, token, limits, metrics))
    }

    fn over(
        transport: Transport,
        name: &'static str,
        token: TokenSource,
        limits: UpstreamLimits,
        metrics: UpstreamMetrics,
    ) -> Self {
        let tracer = Tracer::default();
        Self { name, transport, token, limits, metrics, tracer, rest: Rest::default() }
    }

    /// The same; the wait that the API asks for is kept in `ledger` under `key`, for this worker's next start and for the
    /// others on the same Redis.
    #[must_use]
    pub fn sharing_rate_limits_in(self, ledger: Ledger, key: &str) -> Self {
        Self { rest: Rest::kept_in(ledger, format!("rest:{key}")), ..self }
    }

    /// The same, with a span for each call.
    #[must_use]
    pub fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// A client for an API of the simulation.
    #[cfg(test)]
    pub(crate) fn simulated(
        name: &'static str,
        api: crate::simulation::network::Api,
        token: TokenSource,
        limits: UpstreamLimits,
        metrics: UpstreamMetrics,
    ) -> Self {
        Self::over(Transport::Simulated(api), name, token, limits, metrics)
    }

    /// The API's name, for errors and logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Posts `body` as JSON, within `limit` or the configured time, whichever is shorter. `subject` is what the call is about: a
    /// Retry-After that only one of them meets again and again holds for it alone.
    ///
    /// # Errors
    /// [`UpstreamError`], sorted by what can be done.
    pub async fn post<B: Serialize + Sync>(
        &self,
        url: Url,
        body: &B,
        subject: &str,
        trace: &TraceContext,
        limit: Duration,
    ) -> Result<Answer, UpstreamError> {
        let mut request = Request::new(Method::POST, url);
        let json = serde_json::to_vec(body).map_err(|_| self.unanswered(Broken::OnTheWay))?;
        *request.body_mut() = Some(json.into());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.send(request, subject, trace, limit, Excess::IsMalformed).await
    }

    /// Gets `url`, within the configured time: no session's end limits it.
    ///
    /// # Errors
    /// As [`Upstream::post`].
    pub async fn get(&self, url: Url, trace: &TraceContext) -> Result<Answer, UpstreamError> {
        self.send(Request::new(Method::GET, url), "", trace, Duration::MAX, Excess::IsMalformed).await
    }

    /// The same, about `subject`, and of a body that is too large its beginning.
    ///
    /// # Errors
    /// As [`Upstream::post`].
    pub async fn get_beginning(
        &self,
        url: Url,
        subject: &str,
        trace: &TraceContext,
    ) -> Result<Answer, UpstreamError> {
        self.send(Request::new(Method::GET, url), subject, trace, Duration::MAX, Excess::IsLeft).await
    }

    async fn send(
        &self,
        mut request: Request,
        subject: &str,
        trace: &TraceContext,
        limit: Duration,
        excess: Excess,
    ) -> Result<Answer, UpstreamError> {
        let asked = Instant::now();
        if let Some(left) = self.rest.left().await {
            return Err(self.not_called(ErrorCause::RateLimited, "asked to be left alone", Some(left)));
        }
        let limit = limit.saturating_sub(asked.elapsed());
        // A client with no time left may begin to send before it notices.
        if limit.is_zero() {
            return Err(self.not_called(ErrorCause::SessionOver, "has no time left to answer", None));
        }
        request.headers_mut().insert(AUTHORIZATION, self.authorization()?);
        *request.timeout_mut() = Some(limit.min(self.limits.timeout));
        let mut span = self.tracer.call(request.method().as_str(), request.url(), trace);
        insert(request.headers_mut(), header::TRACEPARENT, &span.context().traceparent());
        insert(request.headers_mut(), header::TRACESTATE, span.context().tracestate().unwrap_or_default());
        let (mut call, begun_at) = (self.metrics.begin(), Instant::now());
        let answered = self.answer(request, subject, &mut span, excess).await;
        // A look at what was sent is served where a message to the same one is not.
        let looks = excess == Excess::IsLeft;
        if !looks && !matches!(&answered, Err(error) if error.cause != ErrorCause::Request) {
            self.rest.served(subject, begun_at);
        }
        let is_cut = limit < self.limits.timeout && begun_at.elapsed() >= limit;
        let answered = answered.map_err(|error| if is_cut { self.session_over(error) } else { error });
        if let Err(error) = &answered {
            span.fail(kind(error), &error.reason);
        }
        call.set(answered.as_ref().map_or_else(UpstreamError::called, |_| Called::Malformed));
        answered.map(|Read { body, is_whole, tracking_id, date }| Answer {
            body,
            tracking_id,
            is_whole,
            date,
            call,
        })
    }

    /// What is read of an answer with a status of success.
    async fn answer(
        &self,
        request: Request,
        subject: &str,
        span: &mut DeliverySpan,
        excess: Excess,
    ) -> Result<Read, UpstreamError> {
        let (response, begun) =
            self.transport.call(request).await.map_err(|broken| self.unanswered(broken))?;
        let tracking_id = tracking_id(response.headers());
        span.set("http.response.status_code", i64::from(response.status().as_u16()));
        if let Some(id) = &tracking_id {
            span.set_list("http.response.header.trackingid", id);
        }
        if !response.status().is_success() {
            let refused = self.refused(response, begun, tracking_id.as_deref()).await;
            let Some(wait) = refused.retry_after.filter(|_| refused.cause == ErrorCause::RateLimited) else {
                return Err(refused);
            };
            if self.rest.is_own(subject) {
                return Err(UpstreamError { cause: ErrorCause::Passing, ..refused });
            }
            self.metrics.rate_limited(self.rest.rest(wait).await);
            return Err(refused);
        }
        let status = response.status().as_u16();
        let date = date(response.headers());
        let bytes_max = self.limits.body_bytes_max;
        let read = self.bounded(response, begun, bytes_max).await.and_then(|(body, is_whole)| {
            if is_whole || excess == Excess::IsLeft {
                return Ok((body, is_whole));
            }
            Err(UpstreamError::malformed(self.name, format!("more than {bytes_max} bytes")))
        });
        let (body, is_whole) = read.map_err(|error| UpstreamError { status: Some(status), ..error })?;
        Ok(Read { body, is_whole, tracking_id, date })
    }

    /// What a failure comes to at the end of the session: a refusal stays one, and anything else is no failure of the API.
    fn session_over(&self, error: UpstreamError) -> UpstreamError {
        if error.status.is_some_and(|status| status >= 300) {
            return error;
        }
        let reason = format!("{}: no answer before the session was over", self.name);
        UpstreamError { cause: ErrorCause::SessionOver, reason, retry_after: None, ..error }
    }

    fn not_called(&self, cause: ErrorCause, why: &str, retry_after: Option<Duration>) -> UpstreamError {
        UpstreamError {
            cause,
            status: None,
            unknown: false,
            reason: format!("{} {why}; not called", self.name),
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
            refused(format!("{}: the token is empty or no HTTP header can carry it", self.name))
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// The body, `bytes_max` of it at most, and whether that is all.
    async fn bounded(
        &self,
        mut response: Response,
        begun: Begun,
        bytes_max: usize,
    ) -> Result<(Vec<u8>, bool), UpstreamError> {
        let (mut body, mut is_whole) = (Vec::new(), true);
        while is_whole {
            let chunk = response.chunk().await.map_err(|error| {
                let broken = Broken::from(error);
                self.transport.broke(begun, broken);
                self.unanswered(broken)
            })?;
            let Some(chunk) = chunk else { break };
            let fits = chunk.len().min(bytes_max - body.len());
            body.extend_from_slice(&chunk[..fits]);
            is_whole = fits == chunk.len();
        }
        self.transport.worked(begun);
        Ok((body, is_whole))
    }

    /// No whole answer: says at which step, not where to (a query may name a person).
    fn unanswered(&self, broken: Broken) -> UpstreamError {
        let step = match broken {
            Broken::NoConnection(obstacle) => format!("no connection: {obstacle}"),
            Broken::TimedOut => "no answer within the time limit".to_owned(),
            Broken::CutOff => "the answer broke off".to_owned(),
            Broken::OnTheWay => "the call failed on the way".to_owned(),
        };
        let by = self
            .transport
            .proxy()
            .map_or_else(String::new, |proxy| format!(" (by way of the proxy {proxy})"));
        UpstreamError {
            cause: ErrorCause::Passing,
            status: None,
            unknown: !matches!(broken, Broken::NoConnection(_)),
            reason: format!("{}: {step}{by}", self.name),
            retry_after: None,
        }
    }

    /// A status other than success. One of 4xx counts as Webex's own word only if the answer looks like Webex's.
    async fn refused(&self, response: Response, begun: Begun, tracking_id: Option<&str>) -> UpstreamError {
        let (status, headers) = (response.status(), response.headers().clone());
        let webex = if status.is_client_error() && tracking_id.is_none() {
            let read = self.bounded(response, begun, REFUSAL_BYTES_MAX).await;
            read.is_ok_and(|(body, is_whole)| is_whole && is_webex(&body))
        } else {
            self.transport.worked(begun);
            tracking_id.is_some()
        };
        // The server is not the one for this name, though it shares its certificate and so the connection.
        if status == StatusCode::MISDIRECTED_REQUEST {
            self.transport.reconnect(begun);
        }
        let cause = match status.as_u16() {
            407 | 408 | 421 | 423 | 425 | 429 | 500..=599 => ErrorCause::Passing,
            400..=499 if !webex => ErrorCause::Passing,
            401 => ErrorCause::Token,
            400..=499 => ErrorCause::Request,
            _ => ErrorCause::Malformed,
        };
        let asked = asked_wait(&headers, self.limits.rate_limit_wait);
        let asked = asked
            .or_else(|| (status == StatusCode::TOO_MANY_REQUESTS).then_some(self.limits.rate_limit_wait));
        let retry_after = asked
            .map(|wait| wait.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX))
            .filter(|_| cause == ErrorCause::Passing);
        // Any other 4xx is about what is asked for: a room that is locked, a request that is too early.
        let for_all = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
        let cause = if for_all && retry_after.is_some() { ErrorCause::RateLimited } else { cause };
        let by = match tracking_id {
            Some(id) => format!(", tracking id {id}"),
            None if status.is_client_error() && !webex => {
                "; it is not Webex's answer (no tracking id, no error of its form) but that of a proxy or load balancer"
                    .to_owned()
            }
            None if status.is_redirection() => "; redirects are not followed".to_owned(),
            None => String::new(),
        };
        UpstreamError {
            cause,
            status: Some(status.as_u16()),
            // Only Webex itself knows that it did nothing: a gateway's answer says nothing of what lies behind it.
            unknown: !(webex && status.is_client_error()),
            reason: format!("{} answered {}{by}", self.name, status.as_u16()),
            retry_after,
        }
    }
}

/// What failed, for spans: one of a few.
fn kind(error: &UpstreamError) -> Cow<'static, str> {
    match (error.cause, error.status) {
        (_, Some(status)) if status >= 400 => status.to_string().into(),
        (ErrorCause::Malformed, _) => "malformed".into(),
        _ if error.unknown => "no-answer".into(),
        _ => "no-connection".into(),
    }
}

/// The longest wait that any Retry-After asks for, `unreadable` where one can't be read. A date counts from the answer's own: our
/// clock may be another.
fn asked_wait(headers: &HeaderMap, unreadable: Duration) -> Option<Duration> {
    let now = date(headers).unwrap_or_else(clock::now);
    let values = headers.get_all(RETRY_AFTER).iter();
    values.map(|value| value.to_str().ok().and_then(|value| longest(value, now)).unwrap_or(unreadable)).max()
}

/// The longest wait that a value names. Two headers may have become one on the way, with a comma between them.
fn longest(value: &str, now: Timestamp) -> Option<Duration> {
    let parts: Vec<_> = value.split(',').map(str::trim).collect();
    // A date has a comma of its own.
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
    fn a_date_to_wait_for_counts_from_the_answers_own() {
        let minute = Duration::from_secs(60);
        let asked = |headers: &[(&'static str, String)]| {
            let headers = headers.iter().map(|(name, value)| {
                (reqwest::header::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            });
            asked_wait(&headers.collect(), minute)
        };
        let date = |seconds: i64| {
            let at = Timestamp::from_second(clock::now().as_second() + seconds).unwrap();
            httpdate::fmt_http_date(at.into())
        };
        // Clocks that are an hour late and an hour ahead.
        for wrong in [-3600, 3600] {
            let headers = [("date", date(wrong)), ("retry-after", date(wrong + 30))];
            assert_eq!(asked(&headers), Some(Duration::from_secs(30)));
        }
        let without = asked(&[("retry-after", date(30))]).unwrap();
        assert!((28..=30).contains(&without.as_secs()), "{without:?}");
        assert_eq!(
            asked(&[("date", date(0)), ("retry-after", "7".to_owned())]),
            Some(Duration::from_secs(7))
        );
        assert_eq!(asked(&[("retry-after", "soon".to_owned())]), Some(minute));
        assert_eq!(asked(&[("date", date(0))]), None);
        assert_eq!(asked(&[("retry-after", String::new())]), Some(minute));
    }

    #[test]
    fn longest_of_several_waits_counts() {
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
            assert_eq!(asked_wait(&headers, minute), Some(Duration::from_secs(seconds)), "{values:?}");
        }
    }
}
