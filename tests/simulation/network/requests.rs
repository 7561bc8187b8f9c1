//! Requests as the simulated APIs read them.

use std::fmt;

use instant_connect_worker::{contract::stage::StageDef, stages};
use reqwest::{Method, Request};
use serde_json::Value;

/// Reads a request to the API of a stage.
type Reader = fn(&Request) -> Option<SimulatedRequest>;

/// Each stage of the table, and how its API reads requests.
const READERS: &[(&StageDef, Reader)] = &[(&stages::LINK, links_request), (&stages::HOST, message_request)];

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
    /// A request that the API does not define.
    Nonsense,
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
            Self::Nonsense => "nonsense",
        }
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
