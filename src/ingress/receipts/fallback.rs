//! Links for guests whom `WhatsApp` does not reach: they go to stage `sms`.
//!
//! Webex Connect repeats a receipt for some minutes only, and the stage that sent the message has finished with it. So a link that could
//! not be published is published again here, until its session ends or the ingress stops. Its `message_id` is always the same, so stage
//! `sms` sends it once, however often it is published.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use super::publish::publish;
use crate::{
    clock::Clock,
    contract::{http::ProblemKind, link::GuestLink, outgoing::Outgoing, trace::TraceContext},
    ingress::{outlet::Outlet, problem::HttpProblem},
    random::Random,
    retry,
    telemetry::{
        metrics::{ReceiptMetrics, labels::FallbackReason},
        traces::Tracer,
    },
};

/// Memory for links that wait to be published again. A link has a few hundred bytes, and rarely more than a few thousand.
const WAITING_BYTES: usize = 8 * 1024 * 1024;
/// First and longest wait before a link is published again.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Maximum time of one more publish.
const PUBLISH_MAX: Duration = Duration::from_secs(8);

/// The way to stage `sms`.
#[derive(Clone, Debug)]
pub struct SmsFallback(Arc<FallbackState>);

#[derive(Debug)]
struct FallbackState {
    outlet: Outlet,
    clock: Clock,
    random: Random,
    tracer: Tracer,
    metrics: ReceiptMetrics,
    stop: CancellationToken,
    /// The messages whose links wait to be published again.
    waiting: Mutex<BTreeSet<Uuid>>,
    /// A permit for each byte of these links.
    room: Arc<Semaphore>,
}

impl SmsFallback {
    /// Publishes by `outlet`, until `stop`.
    #[must_use]
    pub fn new(
        outlet: Outlet,
        clock: Clock,
        random: Random,
        tracer: Tracer,
        metrics: ReceiptMetrics,
        stop: CancellationToken,
    ) -> Self {
        let (waiting, room) = (Mutex::default(), Arc::new(Semaphore::new(WAITING_BYTES)));
        Self(Arc::new(FallbackState { outlet, clock, random, tracer, metrics, stop, waiting, room }))
    }

    /// Gives the `link` of `message` to stage `sms`. If it is not confirmed until `deadline`, it is published again later.
    ///
    /// # Errors
    /// It is not confirmed, so the receipt must be repeated.
    pub(super) async fn send(
        &self,
        link: &GuestLink,
        message: Uuid,
        code: Option<u32>,
        within: &TraceContext,
        deadline: Instant,
    ) -> Result<(), HttpProblem> {
        let outgoing = Outgoing::by_sms(link, &message)
            .map_err(|_| HttpProblem::new(ProblemKind::Internal, "could not write a guest link for SMS"))?;
        let published = self.0.publish(&outgoing, within, deadline).await;
        match &published {
            Ok(()) => {
                self.0.waiting().remove(&message);
                self.0.given(message, code);
            }
            Err(problem) => self.send_later(outgoing, message, code, link.expires_at.timestamp(), problem),
        }
        published
    }

    fn send_later(
        &self,
        outgoing: Outgoing,
        message: Uuid,
        code: Option<u32>,
        ends_at: Timestamp,
        problem: &HttpProblem,
    ) {
        let reason = problem.detail();
        if self.0.waiting().contains(&message) {
            return;
        }
        let bytes = u32::try_from(outgoing.body.reveal().len()).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.0.room).try_acquire_many_owned(bytes) else {
            warn!(message_id = %message, reason, "could not give a guest link to stage sms, and too many wait; only its receipt repeats this");
            return;
        };
        warn!(message_id = %message, reason, "could not give a guest link to stage sms; repeating until its session ends");
        self.0.waiting().insert(message);
        let state = Arc::clone(&self.0);
        let trace = TraceContext::begin(&self.0.random);
        tokio::spawn(async move {
            let _room = room;
            state.repeat(&outgoing, message, code, ends_at, &trace).await;
            state.waiting().remove(&message);
        });
    }
}

impl FallbackState {
    async fn repeat(
        &self,
        outgoing: &Outgoing,
        message: Uuid,
        code: Option<u32>,
        ends_at: Timestamp,
        trace: &TraceContext,
    ) {
        for attempt in 1.. {
            let wait = retry::reconnect_wait(RETRY_MIN, RETRY_MAX, attempt, self.random.fraction());
            let stopped = tokio::select! {
                () = sleep(wait) => false,
                () = self.stop.cancelled() => true,
            };
            // A repeat of the receipt may have been first.
            if !self.waiting().contains(&message) {
                return;
            }
            if self.clock.now() >= ends_at {
                warn!(message_id = %message, "a guest link did not reach stage sms before its session ended");
                return;
            }
            match self.publish(outgoing, trace, Instant::now() + PUBLISH_MAX).await {
                Ok(()) => return self.given(message, code),
                Err(problem) if stopped => {
                    let reason = problem.detail();
                    warn!(message_id = %message, reason, "stopping before a guest link reached stage sms; the guest gets none");
                    return;
                }
                Err(_) => {}
            }
        }
    }

    async fn publish(
        &self,
        outgoing: &Outgoing,
        within: &TraceContext,
        deadline: Instant,
    ) -> Result<(), HttpProblem> {
        publish(&self.tracer, &self.outlet, outgoing, self.clock.now(), within, deadline).await
    }

    fn given(&self, message: Uuid, code: Option<u32>) {
        warn!(message_id = %message, code, "WhatsApp does not deliver a guest link; sending it by SMS (send.sms_fallback)");
        self.metrics.fell_back(FallbackReason::Receipt);
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<Uuid>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
