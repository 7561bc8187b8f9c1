//! `POST /v1/receipts/default`: from the body of a receipt to a confirmed message.
//!
//! - [`signature`], [`key`]: who may send receipts
//! - `request`: the order of work for a request
//! - `notes`: the ledger's part; `publish`: the broker's part; [`fallback`]: links for guests whom `WhatsApp` does not reach
//!
//! Webex Connect gives a receipt up after a few minutes without a 200. So a receipt that cannot be used gets 200, too: an error would
//! only repeat it. A missing receipt says nothing about its message.

pub(crate) mod fallback;
pub(crate) mod key;
mod notes;
mod publish;
mod request;
pub(crate) mod signature;

use axum::http::HeaderMap;
use jiff::Timestamp;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};
use tracing::{debug, info};

use self::{fallback::SmsFallback, key::ReceiptKeys, notes::NotedMessage, signature::HubSecrets};
use super::{
    outlet::Outlet,
    problem::{HttpProblem, RETRY_SOON},
};
use crate::{
    clock::Clock,
    contract::{http::ProblemKind, private::loggable_id, receipt::SentLink, trace::TraceContext},
    ledger::Ledger,
    random::Random,
    telemetry::{
        metrics::{
            ReceiptMetrics,
            labels::{Answered, ReceiptRefused},
        },
        traces::Tracer,
    },
    webex_connect::receipt::{self, ReceiptBody, ReceivedReceipt},
};

/// The path of receipts. Its last part names the organisation.
pub(super) const PATH: &str = "/v1/receipts/default";
/// The path without the organisation.
pub(super) const PATHS: &str = "/v1/receipts/";
/// The methods of the path.
pub(super) const METHODS: &str = "HEAD, POST";

/// Accepts receipts.
#[derive(Debug)]
pub struct Receipts {
    /// `None`: receipts need no signature.
    pub secrets: Option<HubSecrets>,
    /// `None`: receipts need no key.
    pub keys: Option<ReceiptKeys>,
    /// A permit for each receipt in progress. Its sender is not known before its body is read, so receipts must leave room for others.
    pub in_progress: Semaphore,
    pub outlet: Outlet,
    /// The way to stage `sms`, for guests whom `WhatsApp` does not reach; `None`: such a message stays failed.
    pub by_sms: Option<SmsFallback>,
    pub ledger: Ledger,
    pub clock: Clock,
    /// Makes the ids of new traces.
    pub random: Random,
    /// Publish receipts while the ledger is unavailable.
    pub without_ledger: bool,
    pub tracer: Tracer,
    pub metrics: ReceiptMetrics,
}

impl Receipts {
    /// Begins a receipt.
    ///
    /// # Errors
    /// Too many are in progress.
    pub(super) fn begin(&self) -> Result<SemaphorePermit<'_>, HttpProblem> {
        self.in_progress
            .try_acquire()
            .map_err(|_| unavailable("too many receipts are in progress").retry_after(RETRY_SOON))
    }

    /// Checks the key in these headers, if receipts need one, and returns the signature; `None` if they need none.
    ///
    /// # Errors
    /// A missing or wrong key; a missing signature, or one that cannot be right.
    pub(super) fn signature(&self, headers: &HeaderMap) -> Result<Option<Vec<u8>>, ReceiptRefused> {
        self.keys.as_ref().map(|keys| keys.verify(headers)).transpose()?;
        self.secrets.as_ref().map(|secrets| secrets.given(headers)).transpose()
    }

    /// Checks the signature over the bytes of the body, before anything reads them.
    ///
    /// # Errors
    /// The signature is wrong.
    pub(super) fn verify(&self, body: &[u8], signature: Option<&[u8]>) -> Result<(), ReceiptRefused> {
        let Some(secrets) = &self.secrets else { return Ok(()) };
        let is_right = signature.is_some_and(|signature| secrets.verify(body, signature));
        if is_right { Ok(()) } else { Err(ReceiptRefused::Signature) }
    }

    /// Text about the required proof of a receipt, for responses.
    pub(super) fn expected(&self) -> String {
        let signature =
            self.secrets.as_ref().map(|_| "x-hub-signature with the signature of the body".to_owned());
        let key = self.keys.as_ref().map(|keys| format!("{} with the key of receipts", keys.header()));
        let all: Vec<_> = signature.into_iter().chain(key).collect();
        format!("expected {}", all.join(", and "))
    }

    /// Publishes the receipt, unless it is of another program or unreadable.
    ///
    /// The state is noted before the publish. A stage that waits for the receipt then finds it also if the broker is away, and does not
    /// send the message twice. The note does not say that the receipt was published, so a repeat is published again, with the same id.
    ///
    /// # Errors
    /// [`HttpProblem`]: the receipt may have been published, and Webex Connect repeats it.
    pub(super) async fn accept(&self, body: &[u8], deadline: Instant) -> Result<Answered, HttpProblem> {
        let receipt = match receipt::read(body) {
            ReceiptBody::Ours(receipt) => receipt,
            ReceiptBody::Foreign => return Ok(self.ignore(ReceiptRefused::Foreign)),
            ReceiptBody::Malformed => return Ok(self.ignore(ReceiptRefused::Malformed)),
        };
        let trace = TraceContext::begin(&self.random);
        let mut span = self.tracer.serve("POST", "/v1/receipts/{organisation}", &trace);
        let at = self.clock.now();
        let result = self.note_and_publish(&receipt, at, span.context(), deadline).await;
        let status = result.as_ref().map_or_else(|problem| problem.kind.status(), |_| 200);
        span.set("http.response.status_code", i64::from(status));
        if let Err(problem) = &result {
            span.fail(problem.kind.as_str(), problem.kind.title());
        }
        result.map(|about| {
            self.published(&receipt, about.as_ref());
            Answered::Accepted
        })
    }

    async fn note_and_publish(
        &self,
        receipt: &ReceivedReceipt,
        at: Timestamp,
        within: &TraceContext,
        deadline: Instant,
    ) -> Result<Option<SentLink>, HttpProblem> {
        let NotedMessage { about, by_sms } = self.note(receipt, at, deadline).await?;
        // Before the response to the receipt, so that Webex Connect repeats it if the link is not confirmed. The repeat has the same id.
        if let (Some(fallback), Some(link)) = (&self.by_sms, by_sms) {
            fallback.send(&link, receipt.message, receipt.code, within, deadline).await?;
        }
        let message = publish::message(receipt, about.as_ref(), at);
        publish::publish(&self.tracer, &self.outlet, &message, at, within, deadline).await?;
        Ok(about)
    }

    fn published(&self, receipt: &ReceivedReceipt, about: Option<&SentLink>) {
        let cause = receipt.failure.map(|(cause, _)| cause);
        self.metrics.published(receipt.channel, receipt.state, cause);
        if receipt.code_is_unknown {
            self.metrics.unknown_code();
        }
        let event_id = about.map(|about| loggable_id(&about.event_id));
        let (channel, state): (_, &'static str) = (receipt.channel.as_str(), receipt.state.into());
        info!(
            event_id = event_id.as_deref(),
            message_id = %receipt.message,
            channel,
            state,
            code = receipt.code,
            "receipt published"
        );
    }

    fn ignore(&self, reason: ReceiptRefused) -> Answered {
        self.metrics.refused(reason);
        let reason: &'static str = reason.into();
        debug!(reason, "ingress: receipt ignored");
        Answered::Ignored
    }
}

/// The receipt is not known to be published. Webex Connect repeats it.
fn unavailable(reason: &str) -> HttpProblem {
    HttpProblem::new(ProblemKind::Unavailable, format!("{reason}; repeat the request"))
        .retry_after(publish::RETRY_LATER)
}
