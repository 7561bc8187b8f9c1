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
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::{publish::publish, unavailable};
use crate::{
    contract::{
        http::ProblemKind,
        link::GuestLink,
        outgoing::Outgoing,
        receipt::{ReceiptNote, receipt_key},
        trace::TraceContext,
    },
    ingress::{outlet::Outlet, problem::HttpProblem},
    ledger::Ledger,
    random::Random,
    retry,
    telemetry::{
        metrics::{ReceiptMetrics, labels::FallbackReason},
        traces::Tracer,
    },
};

/// Memory for links that wait to be published again, in bytes.
const WAITING_BYTES: usize = 8 * 1024 * 1024;
/// Memory of such a link besides its body.
const LINK_BYTES: usize = 4 * 1024;
/// First and longest wait before a link is published again.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Maximum time of one more publish.
const PUBLISH_MAX: Duration = Duration::from_secs(8);
/// Maximum number of times that a link is published again after a stop, once a second.
const STOPPING_TRIES: u32 = 5;

/// The way to stage `sms`.
#[derive(Clone, Debug)]
pub struct SmsFallback(Arc<FallbackState>);

#[derive(Debug)]
struct FallbackState {
    outlet: Outlet,
    ledger: Ledger,
    random: Random,
    tracer: Tracer,
    metrics: ReceiptMetrics,
    stop: CancellationToken,
    /// The messages whose links wait to be published again.
    waiting: Mutex<BTreeSet<Uuid>>,
    /// A permit for each byte of these links.
    room: Arc<Semaphore>,
}

/// The link of a message that `WhatsApp` does not deliver.
struct UndeliveredLink {
    message: Uuid,
    code: Option<u32>,
    outgoing: Outgoing,
    ends_at: Timestamp,
    trace: TraceContext,
}

impl SmsFallback {
    /// Publishes by `outlet`, until `stop`.
    #[must_use]
    pub fn new(
        outlet: Outlet,
        ledger: Ledger,
        random: Random,
        tracer: Tracer,
        metrics: ReceiptMetrics,
        stop: CancellationToken,
    ) -> Self {
        let (waiting, room) = (Mutex::default(), Arc::new(Semaphore::new(WAITING_BYTES)));
        Self(Arc::new(FallbackState { outlet, ledger, random, tracer, metrics, stop, waiting, room }))
    }

    /// Gives the `link` of `message` to stage `sms`. If it is not confirmed until `deadline`, it is published again later, also if the
    /// caller is cancelled.
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
        let ends_at = link.expires_at.timestamp();
        let link = UndeliveredLink { message, code, outgoing, ends_at, trace: within.clone() };
        let (tell, first) = oneshot::channel();
        let state = Arc::clone(&self.0);
        tokio::spawn(async move {
            let published = state.publish(&link, deadline).await;
            let failure = published.as_ref().err().map(|problem| problem.detail().to_owned());
            // The caller may be gone.
            _ = tell.send(published);
            match failure {
                None => state.given(&link),
                Some(reason) => state.later(&link, &reason).await,
            }
        });
        first.await.unwrap_or_else(|_| Err(unavailable("the link for stage sms was not published")))
    }
}

impl FallbackState {
    /// Publishes `link` again, unless it waits already.
    async fn later(&self, link: &UndeliveredLink, reason: &str) {
        let message_id = link.message;
        if !self.waiting().insert(message_id) {
            return;
        }
        let Some(_room) = self.room(link) else {
            self.waiting().remove(&message_id);
            warn!(%message_id, reason, "could not publish a guest link for stage sms, and too many links wait; retried only if Webex Connect repeats the receipt");
            return;
        };
        warn!(%message_id, reason, "could not publish a guest link for stage sms; retrying until its session ends");
        self.repeat(link).await;
        self.waiting().remove(&link.message);
    }

    fn room(&self, link: &UndeliveredLink) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(link.outgoing.body.reveal().len() + LINK_BYTES).unwrap_or(u32::MAX);
        Arc::clone(&self.room).try_acquire_many_owned(bytes).ok()
    }

    async fn repeat(&self, link: &UndeliveredLink) {
        let message_id = link.message;
        let (mut attempt, mut stopping) = (0, 0);
        loop {
            attempt += 1;
            let wait = retry::reconnect_wait(RETRY_MIN, RETRY_MAX, attempt, self.random.fraction());
            if stopping > 0 {
                sleep(RETRY_MIN).await;
            } else {
                tokio::select! {
                    () = sleep(wait) => {}
                    () = self.stop.cancelled() => {
                        warn!(%message_id, "stopping while a guest link waits for stage sms; the guest may get no SMS");
                    }
                }
            }
            stopping += u32::from(self.stop.is_cancelled());
            // A repeat of the receipt may have been first.
            if !self.waiting().contains(&link.message) || stopping > STOPPING_TRIES {
                return;
            }
            if self.ledger.clock().now() >= link.ends_at {
                warn!(%message_id, "could not publish a guest link for stage sms before its session ended; the guest gets no SMS");
                return;
            }
            match self.is_delivered(link).await {
                Some(true) => {
                    info!(%message_id, "a guest link is not sent by SMS: WhatsApp delivered it after all");
                    return;
                }
                Some(false) if self.publish(link, Instant::now() + PUBLISH_MAX).await.is_ok() => {
                    self.given(link);
                    return;
                }
                _ => {}
            }
        }
    }

    /// True if a later receipt says that `WhatsApp` delivered the message. `None`: the ledger does not say.
    async fn is_delivered(&self, link: &UndeliveredLink) -> Option<bool> {
        let note = self.ledger.read(&receipt_key(&link.message)).await.ok()?;
        let note = note.as_deref().and_then(ReceiptNote::read);
        Some(note.is_some_and(|note| note.state.is_delivered()))
    }

    async fn publish(&self, link: &UndeliveredLink, deadline: Instant) -> Result<(), HttpProblem> {
        let now = self.ledger.clock().now();
        publish(&self.tracer, &self.outlet, &link.outgoing, now, &link.trace, deadline).await
    }

    fn given(&self, link: &UndeliveredLink) {
        self.waiting().remove(&link.message);
        warn!(message_id = %link.message, code = link.code, "WhatsApp does not deliver a guest link; sending it by SMS (send.sms_fallback)");
        self.metrics.fell_back(FallbackReason::Receipt);
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<Uuid>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
