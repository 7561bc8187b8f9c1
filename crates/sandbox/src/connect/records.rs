//! Records of Webex Connect. They contain links, numbers and names; their `Debug` form does not.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{credentials::UsedCredential, receipts::ReceiptState};
use crate::{
    faults::{Endpoint, Fault},
    records::{Text, milliseconds},
};

/// An accepted message to one address, or an accepted event.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedSend {
    /// Time of acceptance.
    #[serde(serialize_with = "milliseconds")]
    pub at: Timestamp,
    /// [`Endpoint::Sms`], [`Endpoint::WhatsApp`] or [`Endpoint::Event`].
    pub endpoint: Endpoint,
    /// `messageId` or `transid` of the response.
    pub id: String,
    /// As sent.
    pub correlation_id: Option<String>,
    /// The number as sent: with `+` for SMS, without for WhatsApp. Empty for an event.
    pub address: String,
    /// As sent; SMS only.
    pub from: Option<String>,
    /// The content.
    pub content: SentContent,
    /// The link: the first one in a text, the target of a button, or an event's parameter `url`.
    pub url: Option<String>,
    /// `validity` as sent, in seconds; SMS only.
    pub validity_s: Option<i64>,
    /// The time from `expiry`, `expireAt` or `validity`.
    pub expiry: Option<Timestamp>,
    /// As sent.
    pub callback_data: Option<String>,
    /// As sent; SMS only.
    pub requested_receipts: Option<Vec<String>>,
    /// The credential of the request.
    pub credential: UsedCredential,
    /// The fault of this request. The message counts as sent, but the response may not have arrived.
    pub fault: Option<Fault>,
}

/// Content of a [`RecordedSend`].
#[derive(Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum SentContent {
    /// An SMS.
    Text {
        /// As sent.
        text: String,
    },
    /// A WhatsApp template.
    Template {
        /// Id of the template.
        template: String,
        /// As sent.
        parameters: Map<String, Value>,
        /// The filled text.
        body: String,
        /// The label of the button.
        button: Option<String>,
    },
    /// A custom event.
    Event {
        /// `evtid` as sent.
        event: String,
        /// As sent.
        parameters: Map<String, Value>,
        /// False: Webex Connect accepts the event, but no flow gets it.
        known: bool,
    },
}

impl RecordedSend {
    /// The message on the phone; `None` for an event.
    pub(super) fn text(&self) -> Option<Text> {
        let (channel, body, button) = match &self.content {
            SentContent::Text { text } => ("sms", text.clone(), None),
            SentContent::Template { body, button, .. } => ("whatsapp", body.clone(), button.clone()),
            SentContent::Event { .. } => return None,
        };
        Some(Text {
            channel: channel.to_owned(),
            to: format!("+{}", self.address.trim_start_matches('+')),
            name: None,
            url: self.url.clone().unwrap_or_default(),
            body: Some(body),
            button,
            at: self.at,
        })
    }

    /// Approximate size, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let content = match &self.content {
            SentContent::Text { text } => text.len(),
            SentContent::Template { parameters, body, .. } => body.len() + json_bytes(parameters),
            SentContent::Event { parameters, .. } => json_bytes(parameters),
        };
        let texts = [&self.url, &self.callback_data, &self.correlation_id];
        size_of::<Self>() + content + texts.into_iter().flatten().map(String::len).sum::<usize>()
    }
}

fn json_bytes(parameters: &Map<String, Value>) -> usize {
    serde_json::to_string(parameters).map_or(0, |text| text.len())
}

impl fmt::Debug for RecordedSend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordedSend")
            .field("at", &self.at)
            .field("endpoint", &self.endpoint)
            .field("id", &self.id)
            .field("correlation_id", &self.correlation_id)
            .field("content", &self.content)
            .field("validity_s", &self.validity_s)
            .field("expiry", &self.expiry)
            .field("credential", &self.credential)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SentContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text { .. } => f.debug_struct("Text").finish_non_exhaustive(),
            Self::Template { template, .. } => {
                f.debug_struct("Template").field("template", template).finish_non_exhaustive()
            }
            Self::Event { event, known, .. } => {
                f.debug_struct("Event").field("event", event).field("known", known).finish_non_exhaustive()
            }
        }
    }
}

/// An attempt to send a receipt.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedReceipt {
    /// End of the attempt.
    #[serde(serialize_with = "milliseconds")]
    pub at: Timestamp,
    /// [`Endpoint::Sms`] or [`Endpoint::WhatsApp`].
    pub endpoint: Endpoint,
    /// [`RecordedSend::id`] of the message.
    pub id: String,
    /// As in the message.
    pub correlation_id: Option<String>,
    /// The reported state.
    pub state: ReceiptState,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// The result of the attempt.
    pub result: ReceiptResult,
}

/// Result of an attempt to send a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ReceiptResult {
    /// The webhook responded with this status; only 200 is a success.
    Status(u16),
    /// No response within [`ReceiptWebhook::timeout`](super::ReceiptWebhook::timeout).
    TimedOut,
    /// No connection, or a cut one.
    Unreachable,
    /// Not sent, because of [`ReceiptFault::Drop`](crate::ReceiptFault::Drop).
    Dropped,
}

/// Counts since the start, including entries that were removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectCounts {
    /// All requests to the SMS API, including failed requests.
    pub sms: u64,
    /// All requests to the WhatsApp API, including failed requests.
    pub whatsapp: u64,
    /// All requests to the event API, including failed requests.
    pub events: u64,
    /// [`RecordedSend`]s.
    pub sends: u64,
    /// [`RecordedReceipt`]s: attempts, including failed attempts.
    pub receipts: u64,
    /// Receipts that the webhook confirmed with 200.
    pub confirmed_receipts: u64,
}
