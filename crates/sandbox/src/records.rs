//! Records of the sandbox. They contain links, phone numbers and addresses, so they may be shown but never logged.

use std::time::Instant;

use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::faults::{Endpoint, Fault};

/// Role of a link's recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordedRole {
    /// The expert, who can start the meeting.
    Host,
    /// The guest, who waits until a host has joined.
    Guest,
}

/// Wording of the meeting pages, the Guide's `verticalType`.
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

/// A `joseencrypt` request that passed authorisation and validation; its links were made.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedCall {
    /// Time of arrival.
    #[serde(serialize_with = "milliseconds")]
    pub at: Timestamp,
    /// Value of the response's `Trackingid` header.
    pub tracking_id: String,
    /// The meeting.
    pub sub: String,
    /// As sent: seconds since the epoch.
    pub nbf: Option<i64>,
    /// As sent: seconds since the epoch. Absent means 15 minutes after `at`.
    pub exp: Option<i64>,
    /// The URIs in `jwt.flow.data`: devices that would be called.
    pub devices: Vec<String>,
    /// Number of host links.
    pub hosts: usize,
    /// Number of guest links.
    pub guests: usize,
    /// True if short links were requested.
    pub short_urls: bool,
    /// As sent, or the Guide's default.
    pub vertical: RecordedVertical,
    /// As sent, or the Guide's default.
    pub login_url_for_host: bool,
    /// The fault of this call. The links were made, but the response may not have arrived.
    pub fault: Option<Fault>,
}

/// A short link.
#[derive(Clone, Debug)]
pub struct RecordedLink {
    /// The part after `baseUrl`.
    pub code: String,
    /// Role of the recipient.
    pub role: RecordedRole,
    /// The meeting.
    pub sub: String,
    /// Devices that are called when the meeting starts.
    pub devices: Vec<String>,
    /// Start of validity in seconds since the epoch, if set.
    pub nbf: Option<i64>,
    /// Expiry time in seconds since the epoch.
    pub exp: i64,
    /// Tracking id of the call that made the link.
    pub tracking_id: String,
    /// Target of `GET /visit/{code}`: a path of the sandbox with the cipher in its query.
    pub target: String,
}

/// A Webex message, as the API returns it.
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
    /// The plain text, or the text of `markdown` if none was sent.
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
    /// Time of the post.
    #[serde(serialize_with = "milliseconds")]
    pub created: Timestamp,
    /// As sent: `contentType` and `content`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Value>,
    /// The fault of this post. The message exists, but the response may not have arrived.
    #[serde(skip)]
    pub fault: Option<Fault>,
}

/// An SMS on a guest's phone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Text {
    /// `sms` or `whatsapp`.
    pub channel: String,
    /// The phone's number.
    pub to: String,
    /// Name of the guest, if known.
    pub name: Option<String>,
    /// The link in the text, or behind the button. Empty if there is none.
    pub url: String,
    /// The words, if known; the page shows its own otherwise.
    pub body: Option<String>,
    /// The label of the button that opens the link.
    pub button: Option<String>,
    /// Time of delivery.
    #[serde(serialize_with = "milliseconds")]
    pub at: Timestamp,
}

/// A request to one of the two APIs, including refused requests and requests with a fault.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Time when the request head was read.
    pub at: Instant,
    /// Never [`Endpoint::Any`].
    pub endpoint: Endpoint,
    /// `GET`, `POST`…
    pub method: String,
    /// The fault of this request.
    pub fault: Option<Fault>,
}

/// Serialises a time with three decimals: Webex always uses this form, and its SDKs parse no other form.
pub(super) fn milliseconds<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{at:.3}"))
}
