//! One HTTP call with all its limits.

use std::{
    borrow::Cow,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use reqwest::{
    Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER},
};
use secrecy::ExposeSecret;
use serde::Serialize;
use tokio::time::Instant;
use url::{Host, Url};

use super::{
    Cause, TokenSource, UpstreamError,
    origin::{REFUSAL_BYTES_MAX, is_webex, tracking_id},
    token::is_token,
    transport::{Broken, Transport},
};
use crate::{
    clock,
    contract::{header, trace::TraceContext},
    retry::{RETRY_AFTER_MAX, parse_retry_after},
    telemetry::{
        metrics::{Call, UpstreamMetrics, labels::Called},
        traces::{Span, Tracer},
    },
};

/// The shortest wait after a Retry-After, as Cisco's own SDK has it.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);

/// The limits of every call.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
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
    limits: Limits,
    metrics: UpstreamMetrics,
    tracer: Tracer,
    /// No call is made before this: the API asked for it. One for all tasks.
    not_before: Mutex<Option<Instant>>,
}

/// An answer with a status of success. Whoever reads it says whether it [can be used](Answer::is_good): it counts as
/// malformed until then.
#[derive(Debug)]
pub struct Answer {
    /// The body, within [`Limits::body_bytes_max`].
    pub body: Vec<u8>,
    /// What Cisco's support asks for, where the answer named it.
    pub tracking_id: Option<String>,
    /// When it was made, by the API's own clock.
    pub date: Option<Timestamp>,
    call: Call,
}

/// An answer's parts.
struct Read {
    body: Vec<u8>,
    tracking_id: Option<String>,
    date: Option<Timestamp>,
}

impl Answer {
    /// It can be used.
    pub fn is_good(&mut self) {
        self.call.set(Called::Ok);
    }
}

impl Upstream {
    /// A client for the API called `name` (in errors), reached at `url`.
    ///
    /// # Errors
    /// Where no TLS can be set up on this machine.
    pub fn new(
        name: &'static str,
        url: &Url,
        token: TokenSource,
        limits: Limits,
        metrics: UpstreamMetrics,
    ) -> Result<Self, reqwest::Error> {
        Ok(Self::over(Transport::new(url, &limits)?, name, token, limits, metrics))
    }

    fn over(
        transport: Transport,
        name: &'static str,
        token: TokenSource,
        limits: Limits,
        metrics: UpstreamMetrics,
    ) -> Self {
        let tracer = Tracer::default();
        Self { name, transport, token, limits, metrics, tracer, not_before: Mutex::default() }
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
        limits: Limits,
        metrics: UpstreamMetrics,
    ) -> Self {
        Self::over(Transport::Simulated(api), name, token, limits, metrics)
    }

    /// The API's name, for errors and logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Posts `body` as JSON, within `limit` or the configured time, whichever is shorter.
    ///
    /// # Errors
    /// [`UpstreamError`], sorted by what can be done.
    pub async fn post<B: Serialize + Sync>(
        &self,
        url: Url,
        body: &B,
        trace: &TraceContext,
        limit: Duration,
    ) -> Result<Answer, UpstreamError> {
        let mut request = Request::new(Method::POST, url);
        let json = serde_json::to_vec(body).map_err(|_| self.unanswered(Broken::OnTheWay))?;
        *request.body_mut() = Some(json.into());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.send(request, trace, limit).await
    }

    /// Gets `url`, within the configured time.
    ///
    /// # Errors
    /// As [`Upstream::post`].
    pub async fn get(&self, url: Url, trace: &TraceContext) -> Result<Answer, UpstreamError> {
        self.send(Request::new(Method::GET, url), trace, self.limits.timeout).await
    }

    async fn send(
        &self,
        mut request: Request,
        trace: &TraceContext,
        limit: Duration,
    ) -> Result<Answer, UpstreamError> {
        if let Some(left) = self.resting() {
            return Err(self.not_called("asked to be left alone", Some(left)));
        }
        // A client with no time left may begin to send before it notices.
        if limit.is_zero() {
            return Err(self.not_called("has no time left to answer", None));
        }
        request.headers_mut().insert(AUTHORIZATION, self.authorization()?);
        *request.timeout_mut() = Some(limit.min(self.limits.timeout));
        let mut span = self.tracer.call(request.method().as_str(), request.url(), trace);
        insert(request.headers_mut(), header::TRACEPARENT, &span.context().traceparent());
        insert(request.headers_mut(), header::TRACESTATE, span.context().tracestate().unwrap_or_default());
        let mut call = self.metrics.begin();
        let answered = self.answer(request, &mut span).await;
        if let Err(error) = &answered {
            span.fail(kind(error), &error.reason);
        }
        call.set(answered.as_ref().map_or_else(UpstreamError::called, |_| Called::Malformed));
        answered.map(|Read { body, tracking_id, date }| Answer { body, tracking_id, date, call })
    }

    /// What is read of an answer with a status of success.
    async fn answer(&self, request: Request, span: &mut Span) -> Result<Read, UpstreamError> {
        let response = self.transport.call(request).await.map_err(|broken| self.unanswered(broken))?;
        let tracking_id = tracking_id(response.headers());
        span.set("http.response.status_code", i64::from(response.status().as_u16()));
        if let Some(id) = &tracking_id {
            span.set_list("http.response.header.trackingid", id);
        }
        if !response.status().is_success() {
            return Err(self.refused(response, tracking_id.as_deref()).await);
        }
        let status = response.status().as_u16();
        let date = date(response.headers());
        let body = self
            .bounded(response, self.limits.body_bytes_max)
            .await
            .map_err(|error| UpstreamError { status: Some(status), ..error })?;
        Ok(Read { body, tracking_id, date })
    }

    fn not_called(&self, why: &str, retry_after: Option<Duration>) -> UpstreamError {
        UpstreamError {
            cause: Cause::Passing,
            status: None,
            unknown: false,
            reason: format!("{} {why}; not called", self.name),
            retry_after,
        }
    }

    /// How long the API is still to be left alone.
    fn resting(&self) -> Option<Duration> {
        let not_before = *self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        not_before.and_then(|at| at.checked_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    fn rest(&self, wait: Duration) {
        let mut not_before = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let until = (*not_before).max(now.checked_add(wait));
        if let Some(until) = until {
            self.metrics.rate_limited(until.saturating_duration_since(not_before.unwrap_or(now).max(now)));
        }
        *not_before = until;
    }

    fn authorization(&self) -> Result<HeaderValue, UpstreamError> {
        let refused = |reason| UpstreamError {
            cause: Cause::Token,
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

    async fn bounded(&self, mut response: Response, bytes_max: usize) -> Result<Vec<u8>, UpstreamError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unanswered(error.into()))? {
            if body.len() + chunk.len() > bytes_max {
                return Err(UpstreamError::malformed(self.name, format!("more than {bytes_max} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// No whole answer: says at which step, not where to (a query may name a person).
    fn unanswered(&self, broken: Broken) -> UpstreamError {
        let step = match broken {
            Broken::NoConnection => "no connection",
            Broken::TimedOut => "no answer within the time limit",
            Broken::CutOff => "the answer broke off",
            Broken::OnTheWay => "the call failed on the way",
        };
        UpstreamError {
            cause: Cause::Passing,
            status: None,
            unknown: broken != Broken::NoConnection,
            reason: format!("{}: {step}", self.name),
            retry_after: None,
        }
    }

    /// A status other than success. One of 4xx counts as Webex's own word only if the answer looks like Webex's.
    async fn refused(&self, response: Response, tracking_id: Option<&str>) -> UpstreamError {
        let (status, headers) = (response.status(), response.headers().clone());
        let webex = tracking_id.is_some()
            || (status.is_client_error()
                && self.bounded(response, REFUSAL_BYTES_MAX).await.is_ok_and(|body| is_webex(&body)));
        let cause = match status.as_u16() {
            407 | 408 | 421 | 423 | 425 | 429 | 500..=599 => Cause::Passing,
            400..=499 if !webex => Cause::Passing,
            401 => Cause::Token,
            400..=499 => Cause::Request,
            _ => Cause::Malformed,
        };
        let asked = asked_wait(&headers, self.limits.rate_limit_wait);
        let asked = asked
            .or_else(|| (status == StatusCode::TOO_MANY_REQUESTS).then_some(self.limits.rate_limit_wait));
        let retry_after = asked
            .map(|wait| wait.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX))
            .filter(|_| cause == Cause::Passing);
        if let Some(wait) = retry_after {
            self.rest(wait);
        }
        let by = match tracking_id {
            Some(id) => format!(", tracking id {id}"),
            None if status.is_client_error() && !webex => {
                "; it is not Webex's answer (no JSON, no tracking id) but that of a proxy or load balancer"
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
        (Cause::Malformed, _) => "malformed".into(),
        _ if error.unknown => "no-answer".into(),
        _ => "no-connection".into(),
    }
}

/// The wait that a Retry-After asks for, `unreadable` where it can't be read. A date counts from the answer's own: our
/// clock may be another.
fn asked_wait(headers: &HeaderMap, unreadable: Duration) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?;
    let now = date(headers).unwrap_or_else(clock::now);
    let wait = value.to_str().ok().and_then(|value| parse_retry_after(value, now));
    Some(wait.unwrap_or(unreadable))
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

/// Whether `url` names this machine itself.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
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
    }
}
