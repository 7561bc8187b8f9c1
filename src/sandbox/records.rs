//! What the sandbox remembers. These carry links, numbers and addresses: show them, never log them.

use std::time::Instant;

use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::faults::{Endpoint, Fault};

/// Whom a link opens the meeting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordedRole {
    /// The expert, who can start the meeting.
    Host,
    /// The customer, who waits until a host has joined.
    Guest,
}

/// The wording that people see, the Guide's `verticalType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordedVertical {
    /// General.
    Gen,
    /// Healthcare, the Guide's default.
    #[default]
    Hc,
}

impl RecordedVertical {
    /// The path segment of the long URL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gen => "gen",
            Self::Hc => "hc",
        }
    }
}

/// A `joseencrypt` request that passed authorisation and validation, so that links were made for it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedCall {
    /// When it arrived.
    #[serde(serialize_with = "milliseconds")]
    pub at: Timestamp,
    /// What the response's `Trackingid` header says.
    pub tracking_id: String,
    /// The meeting.
    pub sub: String,
    /// As sent: seconds since the epoch.
    pub nbf: Option<i64>,
    /// As sent: seconds since the epoch. Absent means 15 minutes after `at`.
    pub exp: Option<i64>,
    /// The URIs under `jwt.flow.data`: devices that would be called.
    pub devices: Vec<String>,
    /// Host links made.
    pub hosts: usize,
    /// Guest links made.
    pub guests: usize,
    /// Whether short links were asked for.
    pub short_urls: bool,
    /// As sent, or the Guide's default.
    pub vertical: RecordedVertical,
    /// As sent, or the Guide's default.
    pub login_url_for_host: bool,
    /// The fault that fell on this call: the links were made, the answer may never have arrived.
    pub fault: Option<Fault>,
}

/// A short link that was given out.
#[derive(Clone, Debug)]
pub struct RecordedLink {
    /// What follows `baseUrl`.
    pub code: String,
    /// Whom it opens the meeting for.
    pub role: RecordedRole,
    /// The meeting.
    pub sub: String,
    /// Devices that are called when the meeting starts.
    pub devices: Vec<String>,
    /// Seconds since the epoch before which it doesn't open, if given.
    pub nbf: Option<i64>,
    /// Seconds since the epoch from which on it doesn't open any more.
    pub exp: i64,
    /// The tracking id of the call that made it.
    pub tracking_id: String,
    /// Where `GET /visit/{code}` leads: a path of the sandbox with the cipher in its query.
    pub target: String,
}

/// A Webex message, as the API shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedMessage {
    /// `ciscospark://us/MESSAGE/<uuid>` in base64.
    pub id: String,
    /// The room, derived from the recipient for a 1:1 message.
    pub room_id: String,
    /// `direct` or `group`.
    pub room_type: &'static str,
    /// As sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_person_email: Option<String>,
    /// As sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_person_id: Option<String>,
    /// The plain text, that of `markdown` where none was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// As sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub markdown: Option<String>,
    /// `markdown`, escaped; the sandbox renders no formatting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    /// As sent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// The bot's person id.
    pub person_id: String,
    /// The bot's address.
    pub person_email: String,
    /// When it was posted.
    #[serde(serialize_with = "milliseconds")]
    pub created: Timestamp,
    /// As sent: `contentType` and `content`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Value>,
    /// The fault that fell on the post: the message is there, the answer may never have arrived.
    #[serde(skip)]
    pub fault: Option<Fault>,
}

/// A text message on a guest's phone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Text {
    /// `sms` or `whatsapp`.
    pub channel: String,
    /// The phone's number.
    pub to: String,
    /// How the guest is called, if known.
    pub name: Option<String>,
    /// The link in the text.
    pub url: String,
    /// When it was delivered.
    #[serde(serialize_with = "milliseconds")]
    pub at: Timestamp,
}

/// A request to one of the two interfaces, whatever became of it: also the refused and the faulted.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When its head was read.
    pub at: Instant,
    /// Never [`Endpoint::Any`].
    pub endpoint: Endpoint,
    /// `GET`, `POST`…
    pub method: String,
    /// The fault that fell on it.
    pub fault: Option<Fault>,
}

/// Webex writes times with three decimals always, and its SDKs parse nothing else.
fn milliseconds<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{at:.3}"))
}
