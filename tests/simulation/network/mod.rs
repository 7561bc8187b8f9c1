//! The APIs as the worker's calls see them: they succeed, refuse, rate limit, hang, break off or answer wrongly.
//!
//! - `servers`: their state; `requests`: the requests that they read
//! - `fate`: the way in which they treat one call; `response`: their responses
//! - `receipts`: what Webex Connect tells of its messages later

mod fate;
mod receipts;
mod requests;
mod response;
mod servers;

use std::time::Duration;

use futures_util::future::BoxFuture;
use instant_connect_worker::{
    contract::stage::StageDef,
    endpoint::Obstacle,
    upstream::transport::{CallFailure, CallStart, Transport},
};
use reqwest::{Request, Response, header::AUTHORIZATION};
use tokio::time::{Instant, sleep_until};

use self::fate::{CallFate, RetryAfter};
pub(crate) use self::{
    fate::CallResult,
    requests::{GuestMessage, SimulatedRequest},
    servers::{BASE_URL, FailingSession, Outage, Servers, SimulatedLinks},
};
use crate::{
    per_stage::api_name,
    worker::CALL_LIMIT,
    world::{Life, Part},
};

/// The duration of a slow call, which is within the limit.
const SLOW: Duration = Duration::from_secs(11);
/// The largest response that the simulated worker reads.
pub(crate) const BODY_BYTES_MAX: usize = 32_000;

/// The API of a stage as one life of the worker sees it.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) life: Life,
    pub(crate) stage: &'static StageDef,
}

impl Api {
    async fn answer_to(&self, request: Request) -> Result<Response, CallFailure> {
        let limit = request.timeout().copied().unwrap_or(Duration::MAX);
        let until = Instant::now() + limit;
        self.life.point("before a call").await;
        let asked = SimulatedRequest::of(self.stage, &request);
        {
            let mut state = self.life.world.lock();
            state.log(format_args!("{}: {asked:?}", api_name(self.stage)));
            let out = state.network().outage(self.stage).is_some_and(Outage::is_total);
            let rule = state.checker.called(self.stage, &asked, out);
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
            (Ok(_), _) => fate.learnt(self.stage, now),
            (Err(_), _) => CallResult::Failed,
        };
        let mut state = self.life.world.lock();
        state.log(format_args!("{}: {fate:?} for {}, {learnt:?}", api_name(self.stage), asked.key()));
        state.checker.call_ended(self.stage, &asked, learnt);
        drop(state);
        answer
    }

    fn fate(&self, request: &Request, asked: &SimulatedRequest) -> CallFate {
        let mut state = self.life.world.lock();
        let mut network = state.network();
        let accepted = format!("Bearer {}", network.token());
        let token = request.headers().get(AUTHORIZATION).map(|token| token.as_bytes().to_vec());
        if token.as_deref() != Some(accepted.as_bytes()) {
            return CallFate::Status(401, None, false);
        }
        if let Some(failing) = network.failing(asked.key()) {
            return CallFate::Status(failing.status, failing.retry_after.map(RetryAfter::Seconds), false);
        }
        if let Some(fate) = CallFate::of_unanswered(&mut network, asked) {
            return fate;
        }
        match CallFate::of(&mut network, self.stage) {
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
        let slow = self.life.world.lock().network().is_slow(asked.key());
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
        Ok(fate.response(answer, until, &self.life.world.worker_random()))
    }

    /// Applies the effect. Returns the response body.
    fn act(&self, asked: &SimulatedRequest) -> String {
        let mut state = self.life.world.lock();
        let Part { own, common } = state.network();
        let (answer, rule) = own.act(&mut common.checker, asked);
        state.must(rule);
        if let SimulatedRequest::ToGuest(message) = asked {
            receipts::promise(&self.life.world, &mut state, message);
        }
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
