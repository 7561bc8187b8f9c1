//! Requests as the simulated APIs read them.

use std::fmt;

use instant_connect_worker::{contract::stage::StageDef, stages};
use reqwest::{Method, Request};
use serde_json::{Value, json};

/// Reads a request to the API of a stage.
type Reader = fn(&Request) -> Option<SimulatedRequest>;

/// Each stage, and how its API reads requests.
const READERS: &[(&StageDef, Reader)] = &[
    (&stages::LINK, links_request),
    (&stages::HOST, message_request),
    (&stages::SMS, text_request),
    (&stages::WHATSAPP, template_request),
];

/// A request as the API reads it.
pub(crate) enum SimulatedRequest {
    /// Create the links of a session.
    Links {
        session: String,
        hosts: usize,
        guests: usize,
        devices: Vec<String>,
        /// Seconds since the epoch.
        until: i64,
    },
    /// Send a message to an expert.
    Send { to: String, text: String },
    /// List the messages that were sent to an expert.
    List { to: String },
    /// Send a message to a guest.
    ToGuest(GuestMessage),
    /// A request without content, which shows if Webex Connect accepts the key.
    TryKey,
    /// A request that the API does not define.
    Nonsense,
}

/// A message to a guest.
#[derive(Clone, Debug)]
pub(crate) struct GuestMessage {
    /// The id that receipts have.
    pub(crate) id: String,
    pub(crate) channel: &'static str,
    /// The number, with `+`.
    pub(crate) to: String,
    /// The words, or the end of the button's URL.
    pub(crate) content: String,
}

impl fmt::Debug for SimulatedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Links { session, hosts, guests, devices, .. } => {
                write!(
                    f,
                    "{session} requests {hosts} host and {guests} guest links, dials {} devices",
                    devices.len()
                )
            }
            Self::Send { to, .. } => write!(f, "message to {to}"),
            Self::List { to } => write!(f, "list the messages sent to {to}"),
            Self::ToGuest(message) => write!(f, "message to {}", message.to),
            Self::TryKey => f.write_str("try the key"),
            Self::Nonsense => f.write_str("nonsense"),
        }
    }
}

impl SimulatedRequest {
    /// Reads `request`, which the worker sent to the API of `stage`.
    pub(crate) fn of(stage: &StageDef, request: &Request) -> Self {
        let reader = READERS.iter().find(|(other, _)| other.name == stage.name);
        reader.and_then(|(_, read)| read(request)).unwrap_or(Self::Nonsense)
    }

    /// The session or the expert of the request.
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Links { session, .. } => session,
            Self::Send { to, .. } | Self::List { to } => to,
            Self::ToGuest(message) => &message.to,
            Self::TryKey => "the key",
            Self::Nonsense => "nonsense",
        }
    }

    /// True if the request sends nothing to a person.
    pub(crate) const fn is_question(&self) -> bool {
        matches!(self, Self::List { .. } | Self::TryKey)
    }
}

fn body(request: &Request) -> Value {
    let body = request.body().and_then(reqwest::Body::as_bytes);
    body.and_then(|body| serde_json::from_slice(body).ok()).unwrap_or_default()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn links_request(request: &Request) -> Option<SimulatedRequest> {
    if request.method() != Method::POST {
        return None;
    }
    let count = |value: &Value| value.as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
    let body = body(request);
    let jwt = &body["jwt"];
    let devices = jwt["flow"]["data"].as_array().cloned().unwrap_or_default();
    Some(SimulatedRequest::Links {
        session: text(&jwt["sub"])?,
        hosts: count(&body["numHost"]),
        guests: count(&body["numGuest"]),
        devices: devices.iter().filter_map(|device| text(&device["uri"])).collect(),
        until: jwt["exp"].as_i64()?,
    })
}

fn message_request(request: &Request) -> Option<SimulatedRequest> {
    match *request.method() {
        Method::POST => {
            let body = body(request);
            let to = ["toPersonEmail", "toPersonId", "roomId"].iter().find_map(|name| text(&body[name]))?;
            Some(SimulatedRequest::Send { to, text: body.to_string() })
        }
        Method::GET => {
            let (_, to) = request.url().query_pairs().next()?;
            Some(SimulatedRequest::List { to: to.into_owned() })
        }
        _ => None,
    }
}

fn text_request(request: &Request) -> Option<SimulatedRequest> {
    let body = connect_body(request)?;
    if body == json!({}) {
        return Some(SimulatedRequest::TryKey);
    }
    let to = &body["to"][0];
    Some(SimulatedRequest::ToGuest(GuestMessage {
        id: text(&to["correlationId"])?,
        channel: "sms",
        to: text(&to["msisdn"][0])?,
        content: text(&body["content"]["text"])?,
    }))
}

fn template_request(request: &Request) -> Option<SimulatedRequest> {
    let body = connect_body(request)?;
    if body == json!({}) {
        return Some(SimulatedRequest::TryKey);
    }
    Some(SimulatedRequest::ToGuest(GuestMessage {
        id: text(&body["correlationid"])?,
        channel: "whatsapp",
        to: format!("+{}", text(&body["destination"][0]["waid"][0])?),
        content: text(&body["message"]["parameters"]["join"]["payload"])?,
    }))
}

fn connect_body(request: &Request) -> Option<Value> {
    (request.method() == Method::POST).then(|| body(request))
}
