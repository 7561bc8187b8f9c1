//! The start event, version 1, as a flow sends it, and the validated session made of it.

use std::{collections::BTreeMap, fmt};

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use strum::{EnumString, IntoStaticStr};

use super::{
    BODY_BYTES_MAX,
    cloud_event::{self, Unwrapped},
    decode::{self, Invalid, Problem},
    device::{AllowList, Device},
    header,
    identity::Identity,
    ids::{self, EventId},
    message::Message,
    people::{self, Expert, Guest, NAME_CHARS_MAX, Name},
    private::Private,
    stage::{MessageKind, QueueDef},
    time::WireTime,
    trace::TraceContext,
};

/// Name of the exchange for start events, without the prefix.
pub const EXCHANGE: &str = "sessions";
/// The routing key of start events.
pub const ROUTING_KEY: &str = "session.start";

/// The queue of start events.
pub static SESSIONS: QueueDef =
    QueueDef { name: "sessions", bindings: &[(EXCHANGE, ROUTING_KEY)], messages: MessageKind::StartEvent };

/// Maximum total size of the keys and values of `attributes`, in bytes.
pub const ATTRIBUTES_BYTES_MAX: usize = 4 * 1024;

/// Maximum number of guests and experts of one session, in total. Each call serves 25 of them, and all calls must finish within
/// minutes.
pub const PEOPLE_MAX: usize = 1000;
/// Maximum number of devices of one session.
pub const DEVICES_MAX: usize = 100;
/// Maximum total size of the device addresses of one session, in bytes. Each link of the first call contains all addresses,
/// encrypted. This limit keeps the response within the default of `instant_connect.body_bytes_max`, and all long links of a
/// session within the ledger's limit for one event.
pub const DEVICES_BYTES_MAX: usize = 16 * 1024;
/// Maximum length of a `sessionId`, in characters.
const SESSION_ID_CHARS_MAX: usize = 128;

/// Maximum total size of the event data in all its links, in bytes. Each link echoes `correlationId` and `attributes`, and each
/// host link names all guests. Without a limit, one event of 256 KiB could become hundreds of MiB of links.
pub const ECHO_BYTES_MAX: usize = 8 * 1024 * 1024;

/// At least one visible character, and no control characters. Only for the schema; the worker checks [`is_session_id`].
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

/// Configured defaults and permissions for start events.
#[derive(Clone, Debug)]
pub struct SessionRules {
    /// `instant_connect.subject_prefix`.
    pub subject_prefix: String,
    /// `instant_connect.vertical`.
    pub vertical: Vertical,
    /// `instant_connect.host_login`.
    pub host_login: bool,
    /// `instant_connect.link_lifetime`.
    pub link_lifetime: SignedDuration,
    /// `devices.allowed`.
    pub devices: AllowList,
}

/// A validated start event.
#[derive(Clone, Debug)]
pub struct Session {
    /// The event's id.
    pub event_id: EventId,
    /// The session id as received; use [`super::private::loggable_id`] for logs.
    pub session_id: Private<String>,
    /// The JWT subject.
    pub subject: String,
    /// The guests: at least one.
    pub guests: Vec<Guest>,
    /// The experts: at least one, each with exactly one destination.
    pub experts: Vec<Expert>,
    /// The devices, all allowed and without duplicates.
    pub devices: Vec<Device>,
    /// The wording of the meeting.
    pub vertical: Vertical,
    /// True if hosts must sign in.
    pub host_login: bool,
    /// When the links become valid.
    pub not_before: Option<WireTime>,
    /// When the links expire: the session's deadline.
    pub expires_at: WireTime,
    /// The event's correlation id, copied into every link message.
    pub correlation_id: Option<Private<String>>,
    /// The AMQP property `correlation_id` of link messages.
    pub correlation: Private<String>,
    /// The event's attributes, copied into every link message.
    pub attributes: Option<Attributes>,
    /// Hash of the event's content. Events with the same content have the same digest.
    pub digest: Digest,
}

/// SHA-256 of an event's content.
pub type Digest = [u8; 32];

/// Reason why an event is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The event is invalid.
    Invalid(Invalid),
    /// The event was valid when it was sent, but its session is over now.
    Expired(Invalid),
    /// The device at this path is not on `devices.allowed`.
    DeviceNotAllowed(Invalid),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Invalid(invalid) | Self::Expired(invalid) | Self::DeviceNotAllowed(invalid)) = self;
        invalid.fmt(f)
    }
}

impl Refusal {
    fn map(self, change: impl FnOnce(Invalid) -> Invalid) -> Self {
        match self {
            Self::Invalid(invalid) => Self::Invalid(change(invalid)),
            Self::Expired(invalid) => Self::Expired(change(invalid)),
            Self::DeviceNotAllowed(invalid) => Self::DeviceNotAllowed(change(invalid)),
        }
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

/// A start event, taken out of its envelope once: first it is identified, then read.
pub struct StartMessage<'a> {
    message: &'a Message,
    /// The event's identity.
    pub identity: Identity,
    wrapped: Result<Unwrapped<'a>, Invalid>,
}

/// Without the event.
impl fmt::Debug for StartMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartMessage").finish_non_exhaustive()
    }
}

impl<'a> StartMessage<'a> {
    /// Removes the envelope of the start event in `message`.
    #[must_use]
    pub fn open(message: &'a Message) -> Self {
        let wrapped = check_size(message).and_then(|()| cloud_event::unwrap(message));
        Self { message, identity: identity(message, wrapped.as_ref().ok()), wrapped }
    }

    /// Parses and validates the start event at the time `now`.
    ///
    /// # Errors
    /// [`Refusal`], which names the field and the problem, without values from the message.
    pub fn session(&self, rules: &SessionRules, now: Timestamp) -> Result<Session, Refusal> {
        let Self { message, identity, wrapped } = self;
        check_size(message)?;
        if let Some(encoding) = &message.content_encoding
            && !["", "identity", "utf-8", "utf8"].contains(&encoding.to_ascii_lowercase().as_str())
        {
            return Err(Invalid::new("", ENCODED).into());
        }
        let wrapped = wrapped.as_ref().map_err(Invalid::clone)?;
        let path = wrapped.path;
        let within = |invalid: Invalid| if path.is_empty() { invalid } else { invalid.within(path) };
        let start: StartSession = decode::from_json(wrapped.data)
            .map_err(|invalid| with_sender_hint(invalid, message))
            .map_err(within)?;
        validated(start, message, identity, rules, now).map_err(|refusal| refusal.map(within))
    }
}

impl Session {
    /// Parses and validates the start event in `message` at the time `now`.
    ///
    /// # Errors
    /// As [`StartMessage::session`].
    pub fn read(message: &Message, rules: &SessionRules, now: Timestamp) -> Result<Self, Refusal> {
        StartMessage::open(message).session(rules, now)
    }
}

/// The session of `start`, the event in `message`.
fn validated(
    mut start: StartSession,
    message: &Message,
    identity: &Identity,
    rules: &SessionRules,
    now: Timestamp,
) -> Result<Session, Refusal> {
    let Identity { event_id, occurred_at, .. } = identity;
    check(&start, now).map_err(|invalid| refusal(invalid, &start, message, *occurred_at))?;
    start.guests = people::unique_guests(start.guests);
    start.experts = people::unique_experts(start.experts);
    start.devices = start.devices.map(|devices| allowed_devices(devices, &rules.devices)).transpose()?;
    let digest = digest(&start);
    let expires_at = start.expires_at.unwrap_or_else(|| {
        // Counted from the event's own time or its first attempt, whichever is earlier: waiting must not move the deadline.
        let known_since =
            [message.first_failed_at(), *occurred_at].into_iter().flatten().fold(now, Timestamp::min);
        let from = start.not_before.map_or(known_since, |not_before| not_before.timestamp().max(known_since));
        WireTime::floor(from.saturating_add(rules.link_lifetime).unwrap_or(Timestamp::MAX))
    });
    if expires_at.timestamp() <= now {
        return Err(Refusal::Expired(Invalid::new("expiresAt", Problem::SessionOver)));
    }
    let correlation = correlation(start.correlation_id.as_ref(), message, event_id);
    Ok(Session {
        subject: format!("{}{}", rules.subject_prefix, ids::subject(&start.session_id)),
        session_id: start.session_id.into(),
        event_id: event_id.clone(),
        guests: start.guests,
        experts: start.experts,
        devices: start.devices.unwrap_or_default(),
        vertical: start.vertical.unwrap_or(rules.vertical),
        host_login: start.host_login.unwrap_or(rules.host_login),
        not_before: start.not_before,
        expires_at,
        correlation_id: start.correlation_id,
        correlation,
        attributes: start.attributes,
        digest,
    })
}

fn check_size(message: &Message) -> Result<(), Invalid> {
    if message.body.len() > BODY_BYTES_MAX {
        let problem = Problem::TooLarge { bytes: message.body.len(), max: BODY_BYTES_MAX };
        return Err(Invalid::new("", problem));
    }
    Ok(())
}

impl Session {
    /// Total size of the event data in all its links, in bytes.
    #[must_use]
    pub fn echoed(&self) -> usize {
        let correlation = self.correlation_id.as_ref().map_or(0, |id| id.reveal().len());
        let each = self.session_id.reveal().len() + correlation + bytes_of(self.attributes.as_ref());
        repeated(&self.guests, &self.experts, each)
    }
}

/// Hashes the content of an event, independent of its notation. A repeat may differ in white space, order of keys, escapes,
/// `null` for an absent field, and as a CloudEvent in `time` and extensions. Configured defaults are not part of the content.
/// `start` must have no duplicate people or devices.
fn digest(start: &StartSession) -> Digest {
    let content = StartSession {
        experts: start.experts.iter().map(Expert::with_lowercase_email).collect(),
        devices: start.devices.clone().filter(|devices| !devices.is_empty()),
        attributes: start.attributes.clone().filter(|attributes| !attributes.is_empty()),
        ..start.clone()
    };
    // Serialization cannot fail, because the content is text only.
    Sha256::digest(serde_json::to_vec(&content).unwrap_or_default()).into()
}

fn with_sender_hint(invalid: Invalid, message: &Message) -> Invalid {
    match cloud_event::sender_hint(message) {
        Some(hint) => invalid.with_hint(hint),
        None => invalid,
    }
}

/// Identifies the start event in `message`, including the attributes of a CloudEvent.
#[must_use]
pub fn identify(message: &Message) -> Identity {
    StartMessage::open(message).identity
}

fn identity(message: &Message, wrapped: Option<&Unwrapped<'_>>) -> Identity {
    let mut headers = wrapped.map(|wrapped| wrapped.trace.clone()).unwrap_or_default();
    let own = message
        .headers
        .iter()
        .filter(|(name, _)| matches!(name.as_str(), header::TRACEPARENT | header::TRACESTATE));
    headers.extend(own.map(|(name, value)| (name.clone(), value.clone())));
    let id = wrapped.and_then(|wrapped| wrapped.id.as_deref());
    Identity {
        event_id: EventId::of(message.message_id.as_deref(), id, &message.body),
        trace: TraceContext::of(&headers),
        occurred_at: wrapped.and_then(|wrapped| wrapped.time).or(message.published_at),
    }
}

/// Classifies an invalid event. A past `expiresAt` means expired if the event was sent before that time, else invalid. An earlier
/// delivery or failure shows that the event was sent in time.
fn refusal(
    invalid: Invalid,
    start: &StartSession,
    message: &Message,
    occurred_at: Option<Timestamp>,
) -> Refusal {
    let sent_in_time = message.first_failed_at().is_some()
        || message.deliveries() > 0
        || occurred_at.is_some_and(|at| start.expires_at.is_some_and(|end| at < end.timestamp()));
    if sent_in_time && *invalid.problem() == Problem::NotInTheFuture {
        Refusal::Expired(invalid)
    } else {
        Refusal::Invalid(invalid)
    }
}

const ENCODED: &str =
    "expected content_encoding to be empty or identity; compressed bodies are not supported";

/// Checks the rules that the types do not enforce, at the time `now`.
///
/// # Errors
/// [`Invalid`], without values from the event.
pub fn check(start: &StartSession, now: Timestamp) -> Result<(), Invalid> {
    if !is_session_id(&start.session_id) {
        return Err(Invalid::new(
            "sessionId",
            format!(
                "expected 1 to {SESSION_ID_CHARS_MAX} characters, not all blank, and no control characters"
            ),
        ));
    }
    if start.guests.is_empty() {
        return Err(Invalid::new("guests", "expected at least one guest"));
    }
    if start.experts.is_empty() {
        return Err(Invalid::new("experts", "expected at least one expert"));
    }
    if start.guests.len() + start.experts.len() > PEOPLE_MAX {
        return Err(Invalid::new(
            "guests",
            format!("expected at most {PEOPLE_MAX} guests and experts in total"),
        ));
    }
    let devices = start.devices.as_deref().unwrap_or_default();
    if devices.len() > DEVICES_MAX {
        return Err(Invalid::new("devices", format!("expected at most {DEVICES_MAX} devices")));
    }
    if devices.iter().map(|device| device.reveal().len()).sum::<usize>() > DEVICES_BYTES_MAX {
        return Err(Invalid::new(
            "devices",
            format!("expected device addresses of at most {DEVICES_BYTES_MAX} bytes in total"),
        ));
    }
    for (position, expert) in start.experts.iter().enumerate() {
        let within = |invalid: Invalid| invalid.within(&format!("experts[{position}]"));
        expert.address().map_err(within)?;
        check_name(expert.name.as_ref()).map_err(within)?;
    }
    for (position, guest) in start.guests.iter().enumerate() {
        check_name(guest.name.as_ref()).map_err(|invalid| invalid.within(&format!("guests[{position}]")))?;
    }
    if let Some(expires_at) = start.expires_at {
        if expires_at.timestamp() <= now {
            return Err(Invalid::new("expiresAt", Problem::NotInTheFuture));
        }
        if start.not_before.is_some_and(|not_before| not_before >= expires_at) {
            return Err(Invalid::new("expiresAt", "expected a time after notBefore"));
        }
    }
    let bytes = bytes_of(start.attributes.as_ref());
    if bytes > ATTRIBUTES_BYTES_MAX {
        return Err(Invalid::new("attributes", Problem::TooLarge { bytes, max: ATTRIBUTES_BYTES_MAX }));
    }
    let echoed = echoed(start, bytes);
    if echoed > ECHO_BYTES_MAX {
        let problem = Problem::EchoTooLarge { bytes: echoed, max: ECHO_BYTES_MAX };
        return Err(Invalid::new("correlationId", problem));
    }
    Ok(())
}

/// True if `text` is a valid session id. A blank id comes from an unset variable of a flow: all its sessions would share one
/// meeting.
fn is_session_id(text: &str) -> bool {
    let length = text.chars().count();
    (1..=SESSION_ID_CHARS_MAX).contains(&length)
        && !people::is_blank(text)
        && !text.chars().any(char::is_control)
}

fn check_name(name: Option<&Name>) -> Result<(), Invalid> {
    if name.is_some_and(|name| name.reveal().chars().count() > NAME_CHARS_MAX) {
        return Err(Invalid::new("name", format!("expected at most {NAME_CHARS_MAX} characters")));
    }
    Ok(())
}

/// Total size of the event data in all links, in bytes. `attributes` is the size of the attributes.
fn echoed(start: &StartSession, attributes: usize) -> usize {
    let correlation = start.correlation_id.as_ref().map_or(0, |id| id.reveal().len());
    repeated(&start.guests, &start.experts, start.session_id.len() + correlation + attributes)
}

/// Total size of the data that all links repeat: `each` per link, and the guests' names per host link.
fn repeated(guests: &[Guest], experts: &[Expert], each: usize) -> usize {
    let names = guests.iter().filter_map(|guest| guest.name.as_ref()).map(|name| name.reveal().len());
    (guests.len() + experts.len()) * each + experts.len() * names.sum::<usize>()
}

fn bytes_of(attributes: Option<&Attributes>) -> usize {
    attributes.into_iter().flatten().map(|(key, value)| key.len() + value.reveal().len()).sum()
}

/// Removes duplicate devices. Refuses a device that is not allowed.
fn allowed_devices(devices: Vec<Device>, allowed: &AllowList) -> Result<Vec<Device>, Refusal> {
    let mut unique = Vec::with_capacity(devices.len());
    for (position, device) in devices.into_iter().enumerate() {
        if !allowed.allows(&device) {
            let path = format!("devices[{position}]");
            return Err(Refusal::DeviceNotAllowed(Invalid::new(
                path,
                "expected a device listed in devices.allowed",
            )));
        }
        if !unique.contains(&device) {
            unique.push(device);
        }
    }
    Ok(unique)
}

/// Returns the AMQP correlation id, or the event id if AMQP cannot carry the given one. An AMQP short string has at most 255
/// bytes, and some clients refuse control characters. Such a correlation id is only in the body.
fn correlation(given: Option<&Private<String>>, message: &Message, event_id: &EventId) -> Private<String> {
    let given = given.map(|id| id.reveal().as_str()).or(message.correlation_id.as_deref());
    let given = given.filter(|id| !id.is_empty() && id.len() <= 255 && !id.chars().any(char::is_control));
    Private::new(given.unwrap_or_else(|| event_id.as_str()).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-21T09:00:00Z";

    fn rules() -> SessionRules {
        SessionRules {
            subject_prefix: String::new(),
            vertical: Vertical::Hc,
            host_login: true,
            link_lifetime: SignedDuration::from_hours(2),
            devices: serde_json::from_str(r#"["room-*@example.rooms.webex.com"]"#).unwrap(),
        }
    }

    fn read(body: &str) -> Result<Session, String> {
        let message = Message { body: body.into(), ..Message::default() };
        Session::read(&message, &rules(), NOW.parse().unwrap()).map_err(|refusal| refusal.to_string())
    }

    const FULL: &str = r#"{
        "sessionId": "visit-48151623",
        "guests":  [{"channel": "whatsapp", "address": "+34600111222", "name": "Ana", "locale": "es"}],
        "experts": [{"email": "expert@example.com", "name": "Dr Lee"}],
        "devices": ["sip:Room-12@example.rooms.webex.com", "room-12@example.rooms.webex.com"],
        "vertical": "gen", "hostLogin": false,
        "notBefore": "2026-11-21T10:00:00Z", "expiresAt": "2026-11-21T11:00:00Z",
        "correlationId": "flow-7f3a", "attributes": {"resumeKey": "chat-99"}}"#;

    #[test]
    fn data_repeated_in_all_links_is_limited() {
        let session = |correlation: usize, name: usize| {
            let guest = |n| serde_json::json!({"channel": "sms", "address": format!("+34600{n:06}"), "name": "n".repeat(name)});
            let start = serde_json::json!({
                "sessionId": "visit-1", "correlationId": "c".repeat(correlation),
                "guests": (0..500).map(guest).collect::<Vec<_>>(),
                "experts": vec![serde_json::json!({"email": "expert@example.com"}); 400],
            });
            read(&start.to_string()).map(drop)
        };
        // 900 links, and 400 of them name 500 guests.
        let fits = ECHO_BYTES_MAX / 900 - "visit-1".len();
        session(fits, 0).unwrap();
        session(0, 41).unwrap();
        for refused in [session(fits + 1, 0), session(0, 42)] {
            let reason = refused.unwrap_err();
            assert!(
                reason.starts_with(
                    "`correlationId`: correlationId, attributes and names are copied into every link"
                ),
                "{reason}"
            );
        }
    }

    #[test]
    fn event_with_all_fields_is_read() {
        let session = read(FULL).unwrap();
        assert_eq!(session.subject, "visit-48151623");
        assert_eq!(session.vertical, Vertical::Gen);
        assert!(!session.host_login);
        assert_eq!(session.devices.len(), 1, "duplicates are removed");
        assert_eq!(session.expires_at.timestamp().to_string(), "2026-11-21T11:00:00Z");
        assert_eq!(session.correlation.reveal(), "flow-7f3a");
        assert_eq!(session.event_id.as_str(), ids::hash(FULL.as_bytes()).to_string());
    }

    #[test]
    fn absent_or_null_field_gets_the_default() {
        let bare = r#"{"sessionId":"a b","guests":[{"channel":"sms","address":"+34600111222","name":null}],
            "experts":[{"roomId":"Y2lz"}],"devices":null}"#;
        let session = read(bare).unwrap();
        assert_eq!(session.subject, ids::hash(b"a b").to_string());
        assert_eq!((session.vertical, session.host_login), (Vertical::Hc, true));
        assert_eq!(session.expires_at.timestamp().to_string(), "2026-11-21T11:00:00Z");
        assert_eq!(session.not_before, None);
        assert!(session.devices.is_empty());
    }

    #[test]
    fn invalid_session_id_is_refused_by_check_and_schema() {
        let pattern = regex::Regex::new(SESSION_ID_PATTERN).unwrap();
        for (id, is_valid) in [
            ("visit 1", true),
            ("\u{e9}", true),
            ("", false),
            (" ", false),
            ("\u{a0}\t", false),
            ("a\n", false),
            ("\0a", false),
            ("a\u{85}", false),
        ] {
            let event = FULL.replace("\"visit-48151623\"", &serde_json::json!(id).to_string());
            assert_eq!((read(&event).is_ok(), pattern.is_match(id)), (is_valid, is_valid), "{id:?}");
        }
    }

    #[test]
    fn subject_starts_with_the_configured_prefix() {
        let rules = SessionRules { subject_prefix: "test-".to_owned(), ..rules() };
        let subject = |id: &str| {
            let body = FULL.replace("visit-48151623", id).into();
            Session::read(&Message { body, ..Message::default() }, &rules, NOW.parse().unwrap())
                .unwrap()
                .subject
        };
        assert_eq!(subject("visit-1"), "test-visit-1");
        assert_eq!(subject("a b"), format!("test-{}", ids::hash(b"a b")));
    }

    #[test]
    fn correlation_id_with_control_character_is_only_in_the_body() {
        let session = read(&FULL.replace("flow-7f3a", r"flow\u0000")).unwrap();
        assert_eq!(session.correlation.reveal(), session.event_id.as_str());
        assert_eq!(session.correlation_id.unwrap().reveal(), "flow\0");
    }

    #[test]
    fn total_size_of_device_addresses_is_limited() {
        let devices = |bytes: usize| {
            let one = |n| format!("room-{n:02}-{}@example.rooms.webex.com", "x".repeat(bytes - 32));
            let devices: Vec<_> = (0..100).map(one).collect();
            let devices = format!(r#""devices": {}"#, serde_json::json!(devices));
            let old =
                r#""devices": ["sip:Room-12@example.rooms.webex.com", "room-12@example.rooms.webex.com"]"#;
            read(&FULL.replace(old, &devices)).map(|session| session.devices.len())
        };
        assert_eq!(devices(DEVICES_BYTES_MAX / 100), Ok(100));
        let refused = devices(DEVICES_BYTES_MAX / 100 + 1).unwrap_err();
        assert_eq!(refused, "`devices`: expected device addresses of at most 16384 bytes in total");
    }

    #[test]
    fn link_lifetime_of_a_later_session_starts_at_not_before() {
        let later = FULL.replace(r#", "expiresAt": "2026-11-21T11:00:00Z""#, "");
        assert_eq!(read(&later).unwrap().expires_at.timestamp().to_string(), "2026-11-21T12:00:00Z");
    }

    #[test]
    fn event_that_waited_past_its_session_is_expired() {
        let bare = r#"{"sessionId":"a","guests":[{"channel":"sms","address":"+34600111222"}],"experts":[{"roomId":"Y2lz"}]}"#;
        let read = |first_failed_at: &str| {
            let headers = [(header::FIRST_FAILED_AT.to_owned(), first_failed_at.to_owned())].into();
            let message = Message { body: bare.into(), headers, ..Message::default() };
            Session::read(&message, &rules(), NOW.parse().unwrap()).map(|session| session.expires_at)
        };
        assert_eq!(read("2026-11-21T07:00:01Z").unwrap().timestamp().to_string(), "2026-11-21T09:00:01Z");
        assert!(matches!(read("2026-11-21T07:00:00Z"), Err(Refusal::Expired(_))));
    }

    #[test]
    fn session_without_expires_at_ends_relative_to_the_events_time() {
        let bare = r#"{"sessionId":"a","guests":[{"channel":"sms","address":"+34600111222"}],"experts":[{"roomId":"Y2lz"}]}"#;
        let read = |published_at: Option<&str>, headers: &[(&str, &str)]| {
            let headers =
                headers.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
            let published_at = published_at.map(|at| at.parse().unwrap());
            let message = Message { body: bare.into(), published_at, headers, ..Message::default() };
            Session::read(&message, &rules(), NOW.parse().unwrap())
                .map(|session| session.expires_at.timestamp().to_string())
        };
        let time = ("cloudEvents:time", "2026-11-21T08:30:00Z");
        let event = [("cloudEvents:specversion", "1.0"), ("cloudEvents:id", "1"), time];
        assert_eq!(read(Some("2026-11-21T08:00:00Z"), &[]).unwrap(), "2026-11-21T10:00:00Z");
        assert_eq!(read(Some("2026-11-21T08:00:00Z"), &event).unwrap(), "2026-11-21T10:30:00Z");
        let failed = (header::FIRST_FAILED_AT, "2026-11-21T08:10:00Z");
        assert_eq!(read(Some("2026-11-21T08:30:00Z"), &[failed]).unwrap(), "2026-11-21T10:10:00Z");
        assert_eq!(
            read(Some("2026-11-21T09:30:00Z"), &[]).unwrap(),
            "2026-11-21T11:00:00Z",
            "the sender's clock is ahead"
        );
        for none in ["0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z"] {
            let event =
                [("cloudEvents:specversion", "1.0"), ("cloudEvents:id", "1"), ("cloudEvents:time", none)];
            assert_eq!(read(None, &event).unwrap(), "2026-11-21T11:00:00Z", "zero means no time");
        }
        let refused = read(Some("2026-11-18T09:00:00Z"), &[]).unwrap_err();
        assert!(
            matches!(&refused, Refusal::Expired(_)) && refused.to_string().contains("own time"),
            "{refused}"
        );
    }

    /// (text to replace in [`FULL`], replacement, expected error)
    const WRONG: &[(&str, &str, &str)] = &[
        (FULL, "", "body: invalid JSON at line 1, column 0"),
        (FULL, "[]", "body: expected an object"),
        (FULL, "\"x\"", "body: expected an object"),
        (FULL, r#"["s",[["sms","+34600111222"]],[["a@b.co"]]]"#, "body: expected an object"),
        (r#""whatsapp""#, r#"{"whatsapp":null}"#, "`guests[0].channel`: expected a string"),
        (r#""sessionId": "visit-48151623","#, "", "`sessionId`: missing required field"),
        (
            r#""sessionId": "visit-48151623""#,
            r#""sessionId": """#,
            "`sessionId`: expected 1 to 128 characters, not all blank, and no control characters",
        ),
        (r#""sessionId": "visit-48151623""#, r#""sessionId": 7"#, "`sessionId`: expected a string"),
        (
            r#""sessionId": "visit-48151623""#,
            r#""sessionId": "a", "sessionId": "b""#,
            "`sessionId`: duplicate field",
        ),
        (
            r#""devices""#,
            r#""devcies""#,
            "`devcies`: unknown field (did you mean `devices`?); known here: sessionId, guests, experts, devices, vertical, hostLogin, notBefore, expiresAt, correlationId, attributes",
        ),
        (
            r#""devices""#,
            r#""+34600111222""#,
            "`(key 4 of 10)`: unknown field; known here: sessionId, guests, experts, devices, vertical, hostLogin, notBefore, expiresAt, correlationId, attributes",
        ),
        (
            r#""hostLogin""#,
            r#""hivPositive""#,
            "`(key 6 of 10)`: unknown field; known here: sessionId, guests, experts, devices, vertical, hostLogin, notBefore, expiresAt, correlationId, attributes",
        ),
        (
            r#""name": "Ana""#,
            r#""guestHasHiv": true"#,
            "`guests[0].(key 3 of 4)`: unknown field; known here: channel, address, name, locale",
        ),
        (
            r#""sessionId": "v"#,
            r#""session_id": "v"#,
            "`session_id`: unknown field (did you mean `sessionId`?); known here: sessionId, guests, experts, devices, vertical, hostLogin, notBefore, expiresAt, correlationId, attributes",
        ),
        (
            r#""locale""#,
            r#""lokale""#,
            "`guests[0].lokale`: unknown field (did you mean `locale`?); known here: channel, address, name, locale",
        ),
        (
            r#""+34600111222""#,
            r#""600 111 222""#,
            "`guests[0].address`: expected an E.164 number such as +14155550123",
        ),
        (r#""+34600111222""#, "34600111222", "`guests[0].address`: expected a string"),
        (r#""whatsapp""#, r#""telegram""#, "`guests[0].channel`: expected sms or whatsapp"),
        (
            r#"[{"channel": "whatsapp", "address": "+34600111222", "name": "Ana", "locale": "es"}]"#,
            "[]",
            "`guests`: expected at least one guest",
        ),
        (
            r#"[{"channel": "whatsapp", "address": "+34600111222", "name": "Ana", "locale": "es"}]"#,
            "[\"+34600111222\"]",
            "`guests[0]`: expected an object",
        ),
        (
            r#"[{"email": "expert@example.com", "name": "Dr Lee"}]"#,
            "[]",
            "`experts`: expected at least one expert",
        ),
        (
            r#"{"email": "expert@example.com", "name": "Dr Lee"}"#,
            "{}",
            "`experts[0]`: expected exactly one of email, personId, roomId",
        ),
        (
            "expert@example.com",
            "expert at example",
            "`experts[0].email`: expected an e-mail address such as expert@example.com",
        ),
        (
            "sip:Room-12@",
            "sips:room-12@",
            "`devices[0]`: expected a device address such as room-12@example.rooms.webex.com",
        ),
        ("sip:Room-12@", "theatre@", "`devices[0]`: expected a device listed in devices.allowed"),
        (r#""gen""#, r#""vet""#, "`vertical`: expected hc or gen"),
        ("false", "\"no\"", "`hostLogin`: expected a boolean"),
        (
            "2026-11-21T11:00:00Z",
            "tomorrow",
            "`expiresAt`: expected an RFC 3339 time such as 2026-11-21T10:00:00Z",
        ),
        ("2026-11-21T11:00:00Z", "2026-11-21T10:00:00Z", "`expiresAt`: expected a time after notBefore"),
        ("2026-11-21T11:00:00Z", "2026-11-21T09:00:00Z", "`expiresAt`: must be in the future"),
        (r#""chat-99""#, "99", "`attributes.(key 1 of 1)`: expected a string"),
        (
            r#""resumeKey""#,
            r#""a": "b", "hiv-positive": {}, "resumeKey""#,
            "`attributes.(key 2 of 3)`: expected a string",
        ),
        (
            r#""resumeKey": "chat-99""#,
            r#""email": 7, "z": """#,
            "`attributes.(key 1 of 2)`: expected a string",
        ),
        (r#""resumeKey": "chat-99""#, r#""a": "", "a": """#, "`attributes`: expected no duplicate keys"),
        (
            r#""Ana""#,
            r#""Ana \ud83d""#,
            "`guests[0].name`: incomplete Unicode escape: a surrogate such as \\ud83d has no second half (a truncated emoji?)",
        ),
        (
            r#""Ana""#,
            r#""Ana \ud83d\u0041""#,
            "`guests[0].name`: incomplete Unicode escape: a surrogate such as \\ud83d has no second half (a truncated emoji?)",
        ),
        (
            r#""chat-99""#,
            r#""\ude00""#,
            "`attributes.(key 1 of 1)`: incomplete Unicode escape: a surrogate such as \\ud83d has no second half (a truncated emoji?)",
        ),
        (
            r#""Ana""#,
            "\"Ana\nB\"",
            "`guests[0].name`: unescaped line break or control character in a string; write it as an escape such as \\n",
        ),
        (r#""flow-7f3a""#, "{}", "`correlationId`: expected a string"),
    ];

    #[test]
    fn invalid_event_is_refused_with_path_and_expectation() {
        for (from, to, error) in WRONG {
            let body = FULL.replacen(from, to, 1);
            assert_ne!(body, FULL);
            let got = read(&body).unwrap_err();
            let got = if *error == "body: missing required field" {
                got.replace("`sessionId`", "body")
            } else {
                got
            };
            assert_eq!(&got, error, "for {to}");
        }
    }

    #[test]
    fn attributes_over_the_limit_are_refused() {
        let with = |n: usize| FULL.replace("chat-99", &"x".repeat(n));
        assert!(read(&with(ATTRIBUTES_BYTES_MAX - "resumeKey".len())).is_ok());
        let error = read(&with(ATTRIBUTES_BYTES_MAX - "resumeKey".len() + 1)).unwrap_err();
        assert_eq!(error, "`attributes`: 4097 bytes; the limit is 4096");
    }

    #[test]
    fn body_over_the_limit_is_refused() {
        let error = read(&" ".repeat(BODY_BYTES_MAX + 1)).unwrap_err();
        assert_eq!(error, "body: 262145 bytes; the limit is 262144");
    }

    #[test]
    fn byte_order_mark_before_json_is_ignored() {
        assert!(read(&format!("\u{feff}{FULL}")).is_ok());
        let mut event = cloud_event(FULL);
        event.body.splice(..0, *b"\xef\xbb\xbf");
        assert!(Session::read(&event, &rules(), NOW.parse().unwrap()).is_ok());
    }

    #[test]
    fn text_other_than_utf_8_is_refused_by_name() {
        let read = |body: Vec<u8>| {
            let message = Message { body, ..Message::default() };
            Session::read(&message, &rules(), NOW.parse().unwrap()).unwrap_err().to_string()
        };
        let latin = FULL.replace("Ana", "@").bytes().map(|b| if b == b'@' { 0xe9 } else { b }).collect();
        assert_eq!(read(latin), "`guests[0].name`: expected text in UTF-8");
        let utf_16 = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(
            read(utf_16),
            "body: expected JSON in UTF-8; the body begins with a UTF-16 byte-order mark"
        );
    }

    #[test]
    fn deep_nesting_is_an_error_without_stack_overflow() {
        let error = read(&format!(r#"{{"attributes": {}"#, "[".repeat(100_000))).unwrap_err();
        assert!(error.starts_with("`attributes`") || error.starts_with("body"), "{error}");
    }

    fn cloud_event(data: &str) -> Message {
        Message {
            body: format!(
                r#"{{"specversion":"1.0","id":"ce-1","type":"t","source":"/flows/7","subject":"ignored",
                "traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","data":{data}}}"#
            )
            .into(),
            content_type: Some("application/cloudevents+json; charset=utf-8".into()),
            ..Message::default()
        }
    }

    #[test]
    fn structured_cloud_event_is_unwrapped() {
        let message = cloud_event(FULL);
        let start = StartMessage::open(&message);
        let session = start.session(&rules(), NOW.parse().unwrap()).unwrap();
        assert_eq!(session.event_id.as_str(), "/flows/7#ce-1");
        assert_eq!(session.event_id, start.identity.event_id);
        assert_eq!(start.identity.trace.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
    }

    #[test]
    fn structured_cloud_event_is_recognised_under_any_content_type() {
        for content_type in [None, Some("application/json"), Some("text/plain; charset=utf-8")] {
            let event = Message { content_type: content_type.map(str::to_owned), ..cloud_event(FULL) };
            let session = Session::read(&event, &rules(), NOW.parse().unwrap()).unwrap();
            assert_eq!(session.event_id.as_str(), "/flows/7#ce-1", "{content_type:?}");
        }
        let mentions_specversion = FULL.replace("chat-99", r#"\"specversion\""#);
        assert!(read(&mentions_specversion).is_ok(), "a plain event with the word in a value");
    }

    #[test]
    fn library_envelope_is_refused_with_a_remedy() {
        let body =
            format!(r#"{{"messageId": "1", "messageType": ["urn:message:Start"], "message": {FULL}}}"#);
        let error = read(&body).unwrap_err();
        assert!(error.contains("MassTransit") && error.contains("UseRawJsonSerializer"), "{error}");
        let headers = BTreeMap::from([("NServiceBus.MessageId".to_owned(), "1".to_owned())]);
        let wrong = FULL.replace("sessionId", "$type");
        let sent = |body: &str| Message { body: body.into(), headers: headers.clone(), ..Message::default() };
        let error = Session::read(&sent(&wrong), &rules(), NOW.parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("NServiceBus"), "{error}");
        assert!(Session::read(&sent(FULL), &rules(), NOW.parse().unwrap()).is_ok(), "the body is the event");
    }

    #[test]
    fn encoded_body_is_refused_naming_content_encoding() {
        let encoded = |encoding: &str| Message {
            body: FULL.into(),
            content_encoding: Some(encoding.to_owned()),
            ..Message::default()
        };
        let read = |encoding| Session::read(&encoded(encoding), &rules(), NOW.parse().unwrap());
        assert!(read("gzip").unwrap_err().to_string().contains("content_encoding"));
        for plain in ["", "identity", "UTF-8"] {
            assert!(read(plain).is_ok(), "{plain}");
        }
    }

    #[test]
    fn digest_depends_on_content_and_not_on_notation() {
        let digest = |body: &str| read(body).unwrap().digest;
        let same = [
            FULL.replace('\n', " "),
            FULL.replace("Ana", r"\u0041na"),
            FULL.replace("sip:Room-12@", "ROOM-12@"),
            FULL.replace(
                r#""vertical": "gen", "hostLogin": false,"#,
                r#""hostLogin": false, "vertical": "gen","#,
            ),
            FULL.replace("T10:00:00Z", "T11:00:00+01:00"),
            FULL.replace("expert@example.com", "Expert@Example.com"),
            FULL.replace(
                r#", "name": "Dr Lee"}"#,
                r#", "name": "Dr Lee"}, {"email": "EXPERT@example.com", "name": "Dr Lee"}"#,
            ),
            FULL.replace(r#""sip:Room-12@example.rooms.webex.com", "#, ""),
            FULL.replace(
                r#""locale": "es"}"#,
                r#""locale": "es"}, {"channel": "whatsapp", "address": "+34600111222", "name": "Ana"}"#,
            ),
        ];
        for body in same {
            assert_eq!(digest(&body), digest(FULL), "{body}");
        }
        let short = r#"{"sessionId": "s", "guests": [{"channel": "sms", "address": "+34600111222"}],
            "experts": [{"email": "expert@example.com"}]}"#;
        let with_empty_fields = short.replace(
            r#""sessionId""#,
            r#""devices": [], "attributes": {}, "vertical": null, "correlationId": null, "sessionId""#,
        );
        assert_eq!(digest(&with_empty_fields), digest(short));
        for (original, changed) in [
            ("+34600111222", "+34600111223"),
            ("visit-48151623", "visit-48151624"),
            ("\"es\"", "\"pt\""),
            ("chat-99", "chat-98"),
            ("11:00:00Z", "11:00:01Z"),
            ("false", "true"),
        ] {
            assert_ne!(digest(&FULL.replace(original, changed)), digest(FULL), "{original}");
        }
        // The end of a session without `expiresAt` is counted from `time`, and belongs to no content.
        let endless =
            FULL.replace(r#""notBefore": "2026-11-21T10:00:00Z", "expiresAt": "2026-11-21T11:00:00Z","#, "");
        assert_ne!(endless, FULL);
        let event = |data: &str, extension: &str| {
            let mut event = cloud_event(data);
            event.body = String::from_utf8(event.body).unwrap().replace(r#""ignored""#, extension).into();
            Session::read(&event, &rules(), NOW.parse().unwrap()).unwrap().digest
        };
        for data in [FULL, &endless] {
            assert_eq!(
                event(data, r#""a", "time": "2026-11-21T08:00:00Z""#),
                event(data, r#""b", "time": "2026-11-21T08:30:00Z""#)
            );
        }
    }

    #[test]
    fn paths_in_structured_cloud_event_start_at_data() {
        let wrong = cloud_event(&FULL.replace("+34600111222", "x"));
        let error = Session::read(&wrong, &rules(), NOW.parse().unwrap()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`data.guests[0].address`: expected an E.164 number such as +14155550123"
        );
    }

    #[test]
    fn binary_cloud_event_attributes_are_read_from_headers() {
        for separator in [":", "_"] {
            let header =
                |name: &str, value: &str| (format!("cloudEvents{separator}{name}"), value.to_owned());
            let headers = BTreeMap::from([header("specversion", "1.0"), header("id", "ce-2")]);
            let message = Message { body: FULL.into(), headers, ..Message::default() };
            let session = Session::read(&message, &rules(), NOW.parse().unwrap()).unwrap();
            assert_eq!(session.event_id.as_str(), "ce-2");
        }
    }

    #[test]
    fn invalid_cloud_event_is_refused() {
        for (body, error) in [
            ("{}", "`specversion`: missing required field"),
            (
                r#"{"specversion":"0.3","id":"a","type":"t","source":"s"}"#,
                "`specversion`: expected CloudEvents 1.0",
            ),
            (r#"{"specversion":"1.0","id":"","type":"t","source":"s"}"#, "`id`: expected a non-empty string"),
            (
                r#"{"specversion":"1.0","id":"a","type":"t","source":"s"}"#,
                "`data`: missing required field (data_base64 is not supported)",
            ),
        ] {
            let message = Message { body: body.into(), ..cloud_event("null") };
            assert_eq!(
                Session::read(&message, &rules(), NOW.parse().unwrap()).unwrap_err().to_string(),
                error
            );
        }
    }

    #[test]
    fn correlation_id_too_long_for_amqp_is_only_in_the_body() {
        let session = read(&FULL.replace("flow-7f3a", &"x".repeat(256))).unwrap();
        assert_eq!(session.correlation.reveal(), session.event_id.as_str());
        assert_eq!(session.correlation_id.unwrap().reveal().len(), 256);
    }

    mod random {
        use proptest::prelude::*;
        use serde_json::Value;

        use super::*;

        /// Replaces the value at `path` with `with`.
        fn mutate(value: &mut Value, path: &[usize], with: &Value) {
            let Some((&first, rest)) = path.split_first() else { return *value = with.clone() };
            match value {
                Value::Array(items) if !items.is_empty() => {
                    let index = first % items.len();
                    mutate(&mut items[index], rest, with);
                }
                Value::Object(map) if !map.is_empty() => {
                    let key = map.keys().nth(first % map.len()).unwrap().clone();
                    mutate(&mut map[&key], rest, with);
                }
                _ => *value = with.clone(),
            }
        }

        fn any_json() -> impl Strategy<Value = Value> {
            let leaf = prop_oneof![
                Just(Value::Null),
                any::<bool>().prop_map(Value::from),
                any::<i64>().prop_map(Value::from),
                any::<f64>().prop_map(Value::from),
                "SECRET.{0,20}".prop_map(Value::from)
            ];
            leaf.prop_recursive(3, 16, 4, |inner| {
                prop_oneof![
                    prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                    prop::collection::btree_map("SECRET[ -~]{0,8}", inner, 0..4)
                        .prop_map(|map| Value::Object(map.into_iter().collect())),
                ]
            })
        }

        proptest! {
            #[test]
            fn any_bytes_are_refused_without_panic(body: Vec<u8>) {
                let message = Message { body, ..Message::default() };
                prop_assert!(Session::read(&message, &rules(), NOW.parse().unwrap()).is_err());
            }

            #[test]
            fn refusal_of_any_changed_event_shows_no_value(
                path in prop::collection::vec(any::<usize>(), 1..4), with in any_json(),
            ) {
                let mut event: Value = serde_json::from_str(FULL).unwrap();
                mutate(&mut event, &path, &with);
                if let Err(reason) = read(&event.to_string()) {
                    prop_assert!(!reason.contains("SECRET") && !reason.contains("34600111222") && !reason.contains("chat-99"), "{}", reason);
                }
            }
        }
    }
}
