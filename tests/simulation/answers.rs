//! Effects and response bodies of the two simulated APIs.

use std::fmt;

use instant_connect_worker::contract::ids::Role;
use reqwest::{Method, Request};
use serde_json::{Value, json};

use super::{network::SimulatedApi, world::WorldState};

/// The base URL of short links.
pub(crate) const BASE_URL: &str = "https://instant.webex.com/visit/";

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

/// A link that the API created.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedLinks {
    pub(crate) session: String,
    pub(crate) role: Role,
    /// Seconds since the epoch.
    pub(crate) until: i64,
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
    pub(crate) fn of(which: SimulatedApi, request: &Request) -> Self {
        let body: Value = request
            .body()
            .and_then(reqwest::Body::as_bytes)
            .and_then(|body| serde_json::from_slice(body).ok())
            .unwrap_or_default();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let count = |value: &Value| value.as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        let asked = match (which, request.method()) {
            (SimulatedApi::InstantConnect, &Method::POST) => (|| {
                let jwt = &body["jwt"];
                let devices = jwt["flow"]["data"].as_array().cloned().unwrap_or_default();
                Some(Self::Links {
                    session: text(&jwt["sub"])?,
                    hosts: count(&body["numHost"]),
                    guests: count(&body["numGuest"]),
                    devices: devices.iter().filter_map(|device| text(&device["uri"])).collect(),
                    until: jwt["exp"].as_i64()?,
                })
            })(),
            (SimulatedApi::Messages, &Method::POST) => ["toPersonEmail", "toPersonId", "roomId"]
                .iter()
                .find_map(|name| text(&body[name]))
                .map(|to| Self::Send { to, text: body.to_string() }),
            (SimulatedApi::Messages, &Method::GET) => {
                request.url().query_pairs().next().map(|(_, to)| Self::List { to: to.into_owned() })
            }
            _ => None,
        };
        asked.unwrap_or(Self::Nonsense)
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

/// Carries out the request. Returns the response body, and an error if the request broke a rule.
pub(crate) fn act(state: &mut WorldState, asked: &SimulatedRequest) -> (String, Result<(), String>) {
    match asked {
        SimulatedRequest::Links { session, hosts, guests, devices, until } => {
            let rule = state.checker.links_made(session, devices, *until);
            let mut items = |role: Role, count: usize| -> Vec<Value> {
                let links = &mut state.servers.links;
                (0..count)
                    .map(|_| {
                        let short = format!("{}{}", role.as_str(), links.len());
                        links.insert(
                            short.clone(),
                            SimulatedLinks { session: session.clone(), role, until: *until },
                        );
                        json!({"cipher": "a.b.c.d.e", "short": short})
                    })
                    .collect()
            };
            let (host, guest) = (items(Role::Host, *hosts), items(Role::Guest, *guests));
            (json!({"host": host, "guest": guest, "baseUrl": BASE_URL}).to_string(), rule)
        }
        SimulatedRequest::Send { to, text } => {
            let rule = state.checker.message_sent(to, text);
            state.servers.messages.push((to.clone(), text.clone()));
            (
                json!({"id": format!("message-{}", state.servers.messages.len()), "roomId": to}).to_string(),
                rule,
            )
        }
        SimulatedRequest::List { to } => {
            let sent = state.servers.messages.iter().filter(|(other, _)| other == to);
            let items: Vec<Value> = sent.map(|(_, text)| json!({"markdown": text})).collect();
            (json!({"items": items}).to_string(), Ok(()))
        }
        SimulatedRequest::Nonsense => {
            (String::new(), Err("a request that the API does not define".to_owned()))
        }
    }
}

fn len(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}

/// A response that does not fit the request: roles swapped, a link repeated, another base URL, or no links.
pub(crate) fn wrong(answer: &str) -> String {
    let Ok(mut answer) = serde_json::from_str::<Value>(answer) else { return answer.to_owned() };
    let Some(fields) = answer.as_object_mut() else { return answer.to_string() };
    let host = fields.get("host").cloned();
    let guest = fields.get("guest").cloned();
    match (host, guest) {
        (Some(host), Some(guest)) => match fastrand::u32(..4) {
            // With equal counts, swapped lists could not be detected.
            0 if len(&host) != len(&guest) => {
                fields.extend([("host".to_owned(), guest), ("guest".to_owned(), host)]);
            }
            1 if len(&host) > 0 => _ = fields.insert("guest".to_owned(), host),
            2 => _ = fields.insert("baseUrl".to_owned(), json!("https://example.com/visit/")),
            _ => fields.clear(),
        },
        _ => fields.clear(),
    }
    answer.to_string()
}
