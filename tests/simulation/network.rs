//! The two APIs as the worker's calls see them: they succeed, refuse, rate limit, hang, break off or answer wrongly.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::Error as BodyError;
use axum::{
    body::{Body, Bytes},
    http::{Response as HttpResponse, response::Builder},
};
use futures_util::{
    future::BoxFuture,
    stream::{self, StreamExt},
};
use instant_connect_worker::{
    contract::stage::StageDef,
    endpoint::Obstacle,
    stages,
    upstream::transport::{CallFailure, CallStart, Transport},
};
use jiff::{SignedDuration, Timestamp};
use reqwest::{Request, Response, header::AUTHORIZATION};
use tokio::time::{Instant, sleep_until};

use super::{
    answers::{self, SimulatedRequest},
    worker::CALL_LIMIT,
    world::{Life, WorldState},
};

/// The duration of a slow call, which is within the limit.
const SLOW: Duration = Duration::from_secs(11);
/// Larger than the worker's limit.
const HUGE: usize = 40_000;
/// The largest response that the simulated worker reads.
pub(crate) const BODY_BYTES_MAX: usize = 32_000;

/// One of the two APIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SimulatedApi {
    InstantConnect,
    Messages,
}

impl SimulatedApi {
    /// The stage that calls this API.
    pub(crate) const fn stage(self) -> &'static StageDef {
        match self {
            Self::InstantConnect => &stages::LINK,
            Self::Messages => &stages::HOST,
        }
    }
}

/// An API as one life of the worker sees it.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) life: Life,
    pub(crate) which: SimulatedApi,
}

/// State of both APIs.
pub(crate) struct Servers {
    /// The token that is accepted.
    pub(crate) token: String,
    /// The present fault of each API that affects all calls.
    pub(crate) outage: [Option<Outage>; 2],
    /// A session whose calls all fail, with status and Retry-After; sessions whose calls are slow.
    pub(crate) failing: Option<(String, u16, Option<i64>)>,
    pub(crate) slow: Vec<String>,
    /// The links that were made, by their short ids.
    pub(crate) links: std::collections::BTreeMap<String, answers::SimulatedLinks>,
    /// The messages that were sent: recipient and text.
    pub(crate) messages: Vec<(String, String)>,
}

/// A fault of an API that affects all calls.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outage {
    Unreachable,
    Status(u16),
    Hangs,
    /// Rate limited until this time.
    Limited(Timestamp),
}

/// The result of a call as the worker receives it, in the terms of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallResult {
    /// The call succeeded.
    Worked,
    /// The call failed; an attempt may be counted.
    Failed,
    /// The session ended before the API's usual response time.
    CutOff,
    /// The API is rate limited, until the given time if the response names one.
    Wait(Option<Timestamp>),
    /// This call only is to be repeated later.
    Later,
    /// The token is refused.
    Token,
    /// The request is refused.
    Refused,
}

/// A Retry-After.
#[derive(Clone, Copy, Debug)]
enum RetryAfter {
    Seconds(i64),
    Date(Timestamp),
    Unreadable,
}

/// The way in which an API treats one call.
#[derive(Clone, Copy, Debug)]
enum CallFate {
    Fine,
    Unreachable,
    /// No response, with or without the effect.
    Hangs(bool),
    /// This status and Retry-After, with or without the effect.
    Status(u16, Option<RetryAfter>, bool),
    /// The effect, and a response that breaks off.
    Cut,
    /// The effect, and a response that never ends.
    Endless,
    /// A proxy's page with this status, with or without the effect.
    Page(u16, bool),
    /// The effect, and a response that is not JSON.
    Garbage,
    /// The effect, and a response that is too large.
    Huge,
    /// The effect, and a response that does not fit the request.
    Wrong,
}

impl Servers {
    pub(crate) fn new(token: String) -> Self {
        Self {
            token,
            outage: [None; 2],
            failing: None,
            slow: Vec::new(),
            links: std::collections::BTreeMap::new(),
            messages: Vec::new(),
        }
    }
}

impl Api {
    async fn answer_to(&self, request: Request) -> Result<Response, CallFailure> {
        let limit = request.timeout().copied().unwrap_or(Duration::MAX);
        let until = Instant::now() + limit;
        self.life.point("before a call").await;
        let asked = SimulatedRequest::of(self.which, &request);
        {
            let mut state = self.life.world.lock();
            state.log(format_args!("{:?}: {asked:?}", self.which));
            let out = state.servers.outage[self.which as usize].is_some_and(Outage::is_total);
            let rule = state.checker.called(self.which, &asked, out);
            state.must(rule);
        }
        let fate = self.fate(&request, &asked);
        let answer = tokio::time::timeout_at(until, self.answer(fate, &asked, until)).await;
        let answer = answer.unwrap_or(Err(CallFailure::TimedOut));
        self.life.point("after a call").await;
        let now = self.life.world.clock().now();
        let learnt = match (&answer, fate) {
            (Err(CallFailure::TimedOut), _) | (Ok(_), CallFate::Endless) if limit < CALL_LIMIT => {
                CallResult::CutOff
            }
            (Ok(_), _) => fate.learnt(self.which, now),
            (Err(_), _) => CallResult::Failed,
        };
        let mut state = self.life.world.lock();
        state.log(format_args!("{:?}: {fate:?} for {}, {learnt:?}", self.which, asked.key()));
        state.checker.call_ended(self.which, &asked, learnt);
        drop(state);
        answer
    }

    fn fate(&self, request: &Request, asked: &SimulatedRequest) -> CallFate {
        let mut state = self.life.world.lock();
        let accepted = format!("Bearer {}", state.servers.token);
        let token = request.headers().get(AUTHORIZATION).map(|token| token.as_bytes().to_vec());
        if token.as_deref() != Some(accepted.as_bytes()) {
            return CallFate::Status(401, None, false);
        }
        if let Some((session, status, seconds)) = &state.servers.failing
            && asked.key() == session
        {
            return CallFate::Status(*status, seconds.map(RetryAfter::Seconds), false);
        }
        match CallFate::of(&mut state, self.which) {
            // A 404 to a list request would mean that no message was sent.
            CallFate::Status(404, ..) if matches!(asked, SimulatedRequest::List { .. }) => {
                CallFate::Status(400, None, false)
            }
            fate => fate,
        }
    }

    async fn answer(
        &self,
        fate: CallFate,
        asked: &SimulatedRequest,
        until: Instant,
    ) -> Result<Response, CallFailure> {
        if matches!(fate, CallFate::Unreachable) {
            self.life.world.wait().await;
            return Err(CallFailure::NoConnection(Obstacle::Refused));
        }
        let slow = self.life.world.lock().servers.slow.iter().any(|key| key == asked.key());
        if slow {
            tokio::time::sleep(SLOW).await;
        }
        let early = self.life.world.lock().random.bool();
        if !early {
            self.life.world.wait().await;
        }
        let answer = if fate.has_effect() { self.act(asked) } else { String::new() };
        if early {
            self.life.world.wait().await;
        }
        if matches!(fate, CallFate::Hangs(_)) {
            sleep_until(until + Duration::from_secs(1)).await;
        }
        Ok(fate.response(answer, until))
    }

    /// Applies the effect. Returns the response body.
    fn act(&self, asked: &SimulatedRequest) -> String {
        let mut state = self.life.world.lock();
        let (answer, rule) = answers::act(&mut state, asked);
        state.must(rule);
        answer
    }
}

impl Transport for Api {
    /// Makes one call within the request's own time limit, as `reqwest` does.
    fn call(&self, request: Request) -> BoxFuture<'_, Result<(Response, CallStart), CallFailure>> {
        Box::pin(async move { Ok((self.answer_to(request).await?, CallStart::now(0))) })
    }

    fn proxy(&self) -> Option<&str> {
        None
    }

    fn succeeded(&self, _: CallStart) {}

    fn failed(&self, _: CallStart, _: CallFailure) {}

    fn reconnect(&self, _: CallStart) {}
}

impl CallFate {
    fn of(state: &mut WorldState, which: SimulatedApi) -> Self {
        match state.servers.outage[which as usize] {
            Some(Outage::Unreachable) => return Self::Unreachable,
            Some(Outage::Status(status)) => return Self::Status(status, None, false),
            Some(Outage::Hangs) => return Self::Hangs(state.random.bool()),
            Some(Outage::Limited(until)) if until > state.now() => {
                let left = until.duration_since(state.now()).as_secs() + 1;
                return Self::Status(429, Some(retry_after(state, left)), false);
            }
            _ => {}
        }
        let share = state.plan.bad_answer;
        if !state.chance(share) {
            return Self::Fine;
        }
        let random = &mut state.random;
        match random.u32(..20) {
            0 => Self::Unreachable,
            1 => Self::Hangs(random.bool()),
            2 => Self::Status(401, None, false),
            3 => Self::Status(403, None, false),
            4 => Self::Status([400, 404, 409, 422][random.usize(..4)], None, false),
            5 | 6 => {
                let seconds = [0, 1, 3, 7, 20, 90][random.usize(..6)];
                Self::Status(429, Some(retry_after(state, seconds)), false)
            }
            7 => Self::Status(429, None, false),
            8 => Self::Status(429, Some(RetryAfter::Unreadable), false),
            9 => Self::Status([503, 423, 502][random.usize(..3)], Some(RetryAfter::Seconds(5)), false),
            10..=12 => Self::Status([500, 502, 503, 504][random.usize(..4)], None, random.bool()),
            13 => Self::Status([300, 302, 101, 600 - 1][random.usize(..4)], None, false),
            14 => Self::Cut,
            15 => Self::Endless,
            16 => Self::Garbage,
            17 => Self::Huge,
            18 => {
                let statuses = [200, 200, 204, 400, 401, 403, 404, 404, 409, 413, 421, 502];
                Self::Page(statuses[random.usize(..statuses.len())], random.u32(..4) == 0)
            }
            _ => Self::Wrong,
        }
    }

    const fn has_effect(&self) -> bool {
        match self {
            Self::Unreachable => false,
            Self::Hangs(effect) | Self::Status(_, _, effect) | Self::Page(_, effect) => *effect,
            _ => true,
        }
    }

    fn learnt(self, which: SimulatedApi, now: Timestamp) -> CallResult {
        match (self, which) {
            (Self::Fine, _) => CallResult::Worked,
            (Self::Status(401, ..), _) | (Self::Status(403, ..), SimulatedApi::InstantConnect) => {
                CallResult::Token
            }
            (Self::Status(429, None, _), _) => CallResult::Wait(None),
            (Self::Status(423, Some(_), _), _) => CallResult::Later,
            (Self::Status(_, Some(retry_after), _), _) => CallResult::Wait(retry_after.until(now)),
            (Self::Status(423, ..), _) => CallResult::Failed,
            (Self::Status(400..=499, ..), _) => CallResult::Refused,
            // The effect is unknown after a response that is not Webex's, and after an unreadable success.
            _ => CallResult::Failed,
        }
    }

    fn response(self, answer: String, until: Instant) -> Response {
        let mut head = HttpResponse::builder();
        if !matches!(self, Self::Page(..)) {
            head = head.header("trackingid", "SIM_1");
        }
        let body = match self {
            Self::Page(status, _) => {
                head = head.status(status);
                Body::from("<html>a page of the proxy</html>")
            }
            Self::Status(status, retry_after, _) => {
                head = head.status(status);
                if let Some(retry_after) = retry_after {
                    head = head.header("retry-after", retry_after.to_string());
                }
                Body::empty()
            }
            Self::Cut => broken_off(&answer, stream::once(async { io::ErrorKind::ConnectionReset })),
            Self::Endless => {
                let late = async move {
                    sleep_until(until).await;
                    io::ErrorKind::TimedOut
                };
                broken_off(&answer, stream::once(late))
            }
            Self::Garbage => Body::from("<html>it works</html>"),
            Self::Huge => Body::from(answer + &" ".repeat(HUGE)),
            Self::Wrong => Body::from(answers::wrong(&answer)),
            _ => Body::from(answer),
        };
        response(head, body)
    }
}

/// Half of `answer`, followed by an error.
fn broken_off(answer: &str, error: impl stream::Stream<Item = io::ErrorKind> + Send + 'static) -> Body {
    let half = Bytes::from(answer[..answer.len() / 2].to_owned());
    let error = error.map(|kind| Err(io::Error::from(kind)));
    Body::from_stream(stream::once(async { Ok(half) }).chain(error))
}

fn response(head: Builder, body: Body) -> Response {
    // The status and the headers are valid constants.
    head.body(reqwest::Body::wrap(SimulatedRest(Mutex::new(body))))
        .map_or_else(|_| unreachable!(), Response::from)
}

/// A body that is `Sync`, as `reqwest` demands.
struct SimulatedRest(Mutex<Body>);

impl http_body::Body for SimulatedRest {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BodyError>>> {
        let body = self.get_mut().0.get_mut().unwrap_or_else(PoisonError::into_inner);
        Pin::new(body).poll_frame(context)
    }
}

/// A Retry-After of `seconds` from now, as seconds or as a date.
fn retry_after(state: &mut WorldState, seconds: i64) -> RetryAfter {
    if state.random.bool() {
        return RetryAfter::Seconds(seconds);
    }
    let at = state.now().saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    RetryAfter::Date(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

impl RetryAfter {
    /// The end of the delay if the header is read `now`.
    fn until(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Seconds(seconds) => now.checked_add(SignedDuration::from_secs(seconds)).ok(),
            Self::Date(at) => Some(at),
            Self::Unreadable => None,
        }
    }
}

impl fmt::Display for RetryAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seconds(seconds) => seconds.fmt(f),
            Self::Date(at) => f.write_str(&httpdate::fmt_http_date((*at).into())),
            Self::Unreadable => f.write_str("soon"),
        }
    }
}

impl Outage {
    /// Returns true if every call fails without a Retry-After.
    const fn is_total(self) -> bool {
        !matches!(self, Self::Limited(_))
    }

    /// A random total outage.
    pub(crate) fn new(random: &mut fastrand::Rng) -> Self {
        match random.u32(..4) {
            0 => Self::Unreachable,
            1 => Self::Hangs,
            _ => Self::Status([500, 502, 503][random.usize(..3)]),
        }
    }
}
