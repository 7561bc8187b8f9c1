//! Receipts: Webex Connect's outbound webhook.
//!
//! A webhook must respond with **exactly 200** within ten seconds. Another response, no response and no connection are retried three
//! times, except the statuses that Webex Connect documents as final. A receipt is a `POST` over plain HTTP; a webhook with
//! TLS is not supported.

mod body;
mod client;
mod send;

use std::{fmt::Write as _, time::Duration};

use axum::http::Method;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use url::Url;

pub use body::{ReceiptForm, ReceiptPlacement};
pub(super) use send::{ReceiptJob, run};

use super::{
    limits::{RECEIPT_RETRIES, RECEIPT_RETRY_INTERVAL, RECEIPT_TIMEOUT, code, is_final_for_receipt},
    records::{ReceiptResult, RecordedSend},
    state::ConnectHandle,
};

/// Target of receipts.
#[derive(Clone, Debug)]
pub struct ReceiptWebhook {
    /// An `http` URL.
    pub url: Url,
    /// Hub secret, for the header `x-hub-signature`. `None`: no signature.
    pub secret: Option<SecretString>,
    /// Hash of the signature.
    pub algorithm: SignatureAlgorithm,
    /// True: the signature begins with `sha256=` or `sha512=`.
    pub prefix: bool,
    /// Name and value of a header for authorisation.
    pub api_key: Option<(String, SecretString)>,
    /// Time limit of one attempt.
    pub timeout: Duration,
    /// Number of retries after the first attempt.
    pub retries: u32,
    /// Time between two attempts.
    pub retry_interval: Duration,
}

/// Hash of a signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SignatureAlgorithm {
    /// HMAC-SHA-256
    #[default]
    Sha256,
    /// HMAC-SHA-512
    Sha512,
}

/// State that a receipt reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ReceiptState {
    /// Given to the carrier or to WhatsApp.
    Submitted,
    /// On the phone.
    Delivered,
    /// Opened; WhatsApp only.
    Read,
    /// Its link was opened; SMS only. Such a receipt contains an address and a browser.
    Clicked,
    /// Failed for the reason of this code.
    Failed(u32),
}

impl ReceiptState {
    /// Webex Connect's code.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Submitted => code::SUBMITTED,
            Self::Delivered => code::DELIVERED,
            Self::Read => code::READ,
            Self::Clicked => code::CLICKED,
            Self::Failed(code) => code,
        }
    }
}

impl ReceiptWebhook {
    /// A webhook without signature and authorisation, with the documented times: 10 s, and 3 retries 60 s apart.
    #[must_use]
    pub const fn new(url: Url) -> Self {
        Self {
            url,
            secret: None,
            algorithm: SignatureAlgorithm::Sha256,
            prefix: false,
            api_key: None,
            timeout: RECEIPT_TIMEOUT,
            retries: RECEIPT_RETRIES,
            retry_interval: RECEIPT_RETRY_INTERVAL,
        }
    }
}

impl ReceiptResult {
    /// True if Webex Connect retries after this result.
    #[must_use]
    pub const fn is_retried(self) -> bool {
        match self {
            Self::Status(200) | Self::Dropped => false,
            Self::Status(status) => !is_final_for_receipt(status),
            Self::TimedOut | Self::Unreachable => true,
        }
    }
}

impl ConnectHandle {
    /// Saves a webhook as a tenant's administrator does: sends a `HEAD`, and sets the webhook if the status is 200.
    ///
    /// # Errors
    /// The result of the `HEAD`; the previous webhook stays.
    pub async fn save_webhook(&self, webhook: ReceiptWebhook) -> Result<(), ReceiptResult> {
        let request = client::WebhookRequest::new(&webhook, Method::HEAD, None);
        match request.send(webhook.timeout).await {
            ReceiptResult::Status(200) => {
                self.settings().webhook = Some(webhook);
                Ok(())
            }
            result => Err(result),
        }
    }

    /// Sends one receipt of a message now, with its retries, and returns the last result; `None` without a webhook. Faults
    /// of [`Endpoint::Receipts`](crate::Endpoint::Receipts) have no effect on it.
    pub async fn send_receipt(&self, send: &RecordedSend, state: ReceiptState) -> Option<ReceiptResult> {
        let webhook = self.webhook()?;
        Some(send::one(self, &webhook, send, state).await)
    }
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        // Writing to a string does not fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}
