//! The start event, version 1, as a flow sends it, and the validated session made of it.

mod digest;
mod limits;
mod message;
mod refusal;
mod session;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};

use self::limits::SESSION_ID_CHARS_MAX;
pub use self::{
    digest::Digest,
    limits::{ATTRIBUTES_BYTES_MAX, DEVICES_BYTES_MAX, DEVICES_MAX, ECHO_BYTES_MAX, PEOPLE_MAX, check},
    message::{StartMessage, identify},
    refusal::Refusal,
    session::{GuestRules, Session, SessionRules},
};
use super::{
    decode,
    device::Device,
    people::{Expert, Guest},
    private::Private,
    stage::{MessageKind, QueueDef},
    time::WireTime,
};

/// Name of the exchange for start events, without the prefix.
pub const EXCHANGE: &str = "sessions";
/// The routing key of start events.
pub const ROUTING_KEY: &str = "session.start";

/// The queue of start events.
pub static SESSIONS: QueueDef =
    QueueDef { name: "sessions", bindings: &[(EXCHANGE, ROUTING_KEY)], messages: MessageKind::StartEvent };

/// At least one visible character, and no control characters. Only for the schema; the worker checks `is_session_id` in `limits`.
const SESSION_ID_PATTERN: &str =
    r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$";

/// Opaque key-value pairs of the flow, copied into every link message.
pub type Attributes = BTreeMap<String, Private<String>>;

/// A request for one video session, with a link for each guest and each expert.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "Start video session, version 1")]
pub struct StartSession {
    /// Id of the session. The same id always leads to the same meeting.
    #[schemars(length(min = 1, max = SESSION_ID_CHARS_MAX), regex(pattern = SESSION_ID_PATTERN))]
    pub session_id: String,
    /// The people who get a guest link.
    #[serde(deserialize_with = "decode::objects")]
    #[schemars(length(min = 1))]
    pub guests: Vec<Guest>,
    /// The people who get a host link.
    #[serde(deserialize_with = "decode::objects")]
    #[schemars(length(min = 1))]
    pub experts: Vec<Expert>,
    /// Room devices that are called into the meeting without knocking. The configuration must allow each of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<Device>>,
    /// The wording that people see in the meeting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vertical: Option<Vertical>,
    /// True if hosts must sign in. Without sign-in, anyone who has the link is the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_login: Option<bool>,
    /// When the links become valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<WireTime>,
    /// When the links expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<WireTime>,
    /// Opaque to the worker; copied into every link message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<Private<String>>,
    /// Opaque to the worker; copied into every link message. At most 4 KiB.
    #[serde(default, deserialize_with = "decode::unique", skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Attributes>,
}

/// Wording of a meeting.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, EnumString, IntoStaticStr,
)]
#[serde(rename_all = "lowercase", try_from = "String")]
#[schemars(inline, !try_from)]
#[strum(serialize_all = "lowercase")]
pub enum Vertical {
    /// Healthcare.
    Hc,
    /// General.
    Gen,
}

impl Vertical {
    /// The value on the wire and in long links: `hc` or `gen`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl TryFrom<String> for Vertical {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map_err(|_| "expected hc or gen")
    }
}
