//! Receipts about the messages to guests (`video.receipt.v1`): the state of a message as Webex Connect reports it.
//!
//! - `notes`: what the ledger keeps of a message and of its receipts

mod notes;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

pub use notes::{ReceiptNote, SendNote, SentLink, receipt_key, send_key};

use super::{outgoing::Route, people::Channel, private::Private, start_session::Attributes};

/// Name of the exchange for receipts, and of the queue for whoever reads them, without the prefix.
pub const EXCHANGE: &str = "receipts";
/// The binding of the queue.
pub const BINDING: &str = "receipt.#";
/// The property `type` of a receipt.
pub const RECEIPT_TYPE: &str = "video.receipt.v1";

/// The route of receipts for `channel`.
#[must_use]
pub const fn route(channel: Channel) -> Route {
    let routing_key = match channel {
        Channel::Sms => "receipt.sms",
        Channel::Whatsapp => "receipt.whatsapp",
    };
    Route { exchange: EXCHANGE, routing_key, role: "receipt", channel: channel.as_str() }
}

/// State of a message.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr, VariantArray,
)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
#[strum(serialize_all = "lowercase")]
pub enum MessageState {
    /// Webex Connect has the message. Its code is not known to this program.
    Unknown,
    /// The carrier or `WhatsApp` has the message.
    Submitted,
    /// The guest does not get the message, unless a later receipt says otherwise.
    Failed,
    /// The phone has the message.
    Delivered,
    /// The guest has opened the message.
    Read,
    /// The guest has opened the link.
    Clicked,
}

impl MessageState {
    /// Place in the order of the states. Receipts overtake one another: the state with the highest rank is the message's. A delivery
    /// ranks above a failure, because it shows that the failure was wrong.
    #[must_use]
    pub const fn rank(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Submitted => 1,
            Self::Failed => 2,
            Self::Delivered => 3,
            Self::Read | Self::Clicked => 4,
        }
    }

    /// True if nobody has to wait for another receipt.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Unknown | Self::Submitted)
    }

    /// True if the phone has the message.
    #[must_use]
    pub const fn is_delivered(self) -> bool {
        matches!(self, Self::Delivered | Self::Read | Self::Clicked)
    }
}

/// Cause of a failed message.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr, VariantArray,
)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
#[strum(serialize_all = "lowercase")]
pub enum FailureCause {
    /// The phone cannot be reached now.
    Unreachable,
    /// The carrier, `WhatsApp` or a filter refuses the message.
    Blocked,
    /// The guest has not agreed to get messages, or has withdrawn it.
    Consent,
    /// The number cannot get messages on this channel.
    Number,
    /// The text, the template or a parameter is refused.
    Content,
    /// The message was too late.
    Expired,
    /// The account or the sender at Webex Connect, the carrier or `WhatsApp`.
    Account,
    /// Another cause.
    Unknown,
}

/// The state of a message to a guest (`video.receipt.v1`). Contains no number, name or link.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "Receipt, version 1 (video.receipt.v1)")]
pub struct GuestReceipt {
    /// The id of the start event. Missing if the ledger no longer knows the message, like the other fields from the start event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// As in the start event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<Private<String>>,
    /// The `message_id` of the guest link, by which Webex Connect names the message.
    pub message_id: String,
    /// Channel of the message.
    pub channel: Channel,
    /// State of the message. Receipts overtake one another: of several, the last of this list counts: unknown, submitted, failed,
    /// delivered, read and clicked.
    pub state: MessageState,
    /// True if no other receipt is to be expected. `read` and `clicked` may follow `delivered`.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Cause of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<FailureCause>,
    /// True if the cause of a failure may pass, so that the same message may succeed later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub may_pass: Option<bool>,
    /// Webex Connect's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Time of the state, by Webex Connect's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub at: Option<String>,
    /// Number of parts of an SMS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parts: Option<u32>,
    /// The carrier of an SMS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carrier: Option<String>,
    /// As in the start event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<Private<String>>,
    /// As in the start event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Attributes>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_ranks_above_a_failure_and_a_failure_above_a_submission() {
        assert!(MessageState::VARIANTS.is_sorted_by_key(|state| state.rank()));
        assert!(MessageState::Failed.rank() < MessageState::Delivered.rank());
        let finals = MessageState::VARIANTS.iter().filter(|state| state.is_final());
        assert!(finals.clone().all(|state| state.rank() > MessageState::Submitted.rank()));
        assert_eq!(finals.count(), 4);
    }
}
