//! Rules for the messages of stages `sms` and `whatsapp`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{contract::people::NumberPrefixes, instant_connect::response::LinkRules};

/// Handling of a message that may have been sent: Webex Connect did not respond, or the worker crashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnUnknown {
    /// It is sent again, at most twice: the guest may get it several times.
    Repeat,
    /// It becomes a dead letter: the guest may get none.
    Dead,
}

/// Rules for the messages of both stages.
#[derive(Clone, Debug)]
pub struct SendRules {
    /// Accepted links.
    pub links: LinkRules,
    /// The numbers that may be sent to.
    pub numbers: NumberPrefixes,
    /// Least time until the session's end.
    pub min_remaining: Duration,
    /// Handling of a message that may have been sent.
    pub on_unknown: OnUnknown,
    /// Time for which a message that may have been sent waits for its receipt. `None`: receipts are off.
    pub receipt_wait: Option<Duration>,
    /// Maximum number of messages of the stage per second.
    pub rate: Option<u32>,
    /// A guest whom `WhatsApp` does not reach gets the link by SMS.
    pub sms_fallback: bool,
    /// Maximum number of messages to one number in an hour.
    pub per_address_per_hour: Option<u32>,
}
