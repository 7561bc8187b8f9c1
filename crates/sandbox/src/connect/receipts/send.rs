//! Sending of receipts, with retries and faults.

use std::{pin::pin, time::Duration};

use axum::http::Method;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::{sync::mpsc, task::JoinSet};

use super::{ReceiptResult, ReceiptState, ReceiptWebhook, body, client::WebhookRequest};
use crate::{
    connect::{
        limits::CONCURRENT_RECEIPTS_MAX,
        records::{RecordedReceipt, RecordedSend},
        state::ConnectHandle,
    },
    control::Control,
    faults::{Endpoint, Fault, ReceiptFault},
};

/// The receipts of one message.
pub(crate) struct ReceiptJob {
    send: RecordedSend,
    states: Vec<ReceiptState>,
    wait: Duration,
    fault: Option<ReceiptFault>,
}

impl ReceiptJob {
    /// Plans the receipts of a message, with the fault that fires for it.
    pub(crate) fn new(send: RecordedSend, control: &Control) -> Self {
        let (wait, fault) = match control.pick(Endpoint::Receipts) {
            Some(Fault::Delay(wait)) => (wait, None),
            Some(Fault::Receipt(fault)) => (Duration::ZERO, Some(fault)),
            _ => (Duration::ZERO, None),
        };
        let mut states = vec![ReceiptState::Submitted, ReceiptState::Delivered];
        if send.endpoint == Endpoint::WhatsApp {
            states.push(ReceiptState::Read);
        }
        match fault {
            Some(ReceiptFault::Fail(code)) => {
                states = vec![ReceiptState::Submitted, ReceiptState::Failed(code)];
            }
            Some(ReceiptFault::Reorder) => states.reverse(),
            Some(ReceiptFault::Duplicate) => {
                states = states.into_iter().flat_map(|state| [state; 2]).collect();
            }
            Some(ReceiptFault::Drop | ReceiptFault::BadSignature) | None => {}
        }
        states.retain(|state| is_requested(&send, *state));
        Self { send, states, wait, fault }
    }
}

/// True if the request names the receipt, or no receipts.
fn is_requested(send: &RecordedSend, state: ReceiptState) -> bool {
    let name = match state {
        ReceiptState::Submitted => "SUBMITTED",
        ReceiptState::Delivered => "DELIVERED",
        ReceiptState::Failed(_) => "FAILED",
        ReceiptState::Clicked => "CLICKED",
        ReceiptState::Read => return true,
    };
    send.requested_receipts.as_ref().is_none_or(|requested| requested.iter().any(|one| one == name))
}

/// Sends the receipts of messages until the fake closes.
pub(crate) async fn run(handle: ConnectHandle, mut jobs: mpsc::Receiver<ReceiptJob>) {
    let mut running = JoinSet::new();
    let mut closing = pin!(handle.control().closing());
    loop {
        tokio::select! {
            Some(job) = jobs.recv(), if running.len() < CONCURRENT_RECEIPTS_MAX => {
                running.spawn(send_all(handle.clone(), job));
            }
            Some(_) = running.join_next() => {}
            () = &mut closing => return,
        }
    }
}

/// Sends the receipts of one message in their order. A retry does not hold up the receipts that follow.
async fn send_all(handle: ConnectHandle, job: ReceiptJob) {
    let Some(webhook) = handle.webhook().map(|webhook| with_fault(webhook, job.fault)) else { return };
    handle.control().pause(job.wait).await;
    let step = handle.settings().receipt_step;
    let mut retries = FuturesUnordered::new();
    let mut previous: Option<Attempt> = None;
    for (number, state) in job.states.into_iter().enumerate() {
        if number > 0 {
            handle.control().pause(step).await;
        }
        // A duplicate has the same bytes.
        let attempt = match previous.take() {
            Some(attempt) if attempt.state == state => attempt,
            _ => Attempt::new(&handle, &webhook, &job.send, state),
        };
        if job.fault == Some(ReceiptFault::Drop) {
            attempt.record(&handle, 1, ReceiptResult::Dropped);
        } else if attempt.first(&handle, &webhook).await.is_retried() {
            retries.push(attempt.clone().retry(&handle, &webhook));
        }
        previous = Some(attempt);
    }
    while retries.next().await.is_some() {}
}

/// Sends one receipt with its retries. Returns the last result.
pub(super) async fn one(
    handle: &ConnectHandle,
    webhook: &ReceiptWebhook,
    send: &RecordedSend,
    state: ReceiptState,
) -> ReceiptResult {
    let attempt = Attempt::new(handle, webhook, send, state);
    let first = attempt.first(handle, webhook).await;
    if first.is_retried() { attempt.retry(handle, webhook).await.unwrap_or(first) } else { first }
}

fn with_fault(webhook: ReceiptWebhook, fault: Option<ReceiptFault>) -> ReceiptWebhook {
    if fault == Some(ReceiptFault::BadSignature) {
        ReceiptWebhook { secret: webhook.secret.map(|_| SecretString::from("another secret")), ..webhook }
    } else {
        webhook
    }
}

/// A receipt with the bytes of all its attempts.
#[derive(Clone)]
struct Attempt {
    request: std::sync::Arc<WebhookRequest>,
    endpoint: Endpoint,
    id: String,
    correlation_id: Option<String>,
    state: ReceiptState,
}

impl Attempt {
    fn new(
        handle: &ConnectHandle,
        webhook: &ReceiptWebhook,
        send: &RecordedSend,
        state: ReceiptState,
    ) -> Self {
        let form = handle.settings().receipt_form;
        let form = form.unwrap_or_else(|| body::ReceiptForm::varied(handle.next_receipt()));
        let body = body::body(send, state, form, Timestamp::now());
        Self {
            request: WebhookRequest::new(webhook, Method::POST, Some(body.to_string().into())).into(),
            endpoint: send.endpoint,
            id: send.id.clone(),
            correlation_id: send.correlation_id.clone(),
            state,
        }
    }

    async fn first(&self, handle: &ConnectHandle, webhook: &ReceiptWebhook) -> ReceiptResult {
        let result = self.request.send(webhook.timeout).await;
        self.record(handle, 1, result);
        result
    }

    /// The attempts after the first. Returns the last result, or `None` without an attempt.
    async fn retry(self, handle: &ConnectHandle, webhook: &ReceiptWebhook) -> Option<ReceiptResult> {
        let mut last = None;
        for retry in 1..=webhook.retries {
            handle.control().pause(webhook.retry_interval).await;
            let result = self.request.send(webhook.timeout).await;
            self.record(handle, retry + 1, result);
            last = Some(result);
            if !result.is_retried() {
                break;
            }
        }
        last
    }

    fn record(&self, handle: &ConnectHandle, attempt: u32, result: ReceiptResult) {
        handle.add_receipt(RecordedReceipt {
            at: Timestamp::now(),
            endpoint: self.endpoint,
            id: self.id.clone(),
            correlation_id: self.correlation_id.clone(),
            state: self.state,
            attempt,
            result,
        });
    }
}
