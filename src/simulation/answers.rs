//! What the two APIs do for a call, and what they say of it.

use std::fmt;

use reqwest::{Method, Request};
use serde_json::{Value, json};

use super::{network::SimulatedApi, world::WorldState};
use crate::contract::ids::Role;

/// What short links begin with.
pub(super) const BASE_URL: &str = "https://instant.webex.com/visit/";

/// What a call asks for, as the API reads it.
pub(super) enum SimulatedRequest {
    /// Links of a session.
    Links {
        session: String,
        hosts: usize,
        guests: usize,
        devices: Vec<String>,
        /// Seconds since the epoch.
        until: i64,
    },
    /// That a message is sent to an expert.
    Send { to: String, text: String },
    /// What was sent to an expert.
    List { to: String },
    /// Something that is no call of the API.
    Nonsense,
}

/// A link that was made.
#[derive(Clone, Debug)]
pub(super) struct SimulatedLinks {
    pub(super) session: String,
    pub(super) role: Role,
    /// Seconds since the epoch.
    pub(super) until: i64,
}

impl fmt::Debug for SimulatedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Links { session, hosts, guests, devices, .. } => {
                write!(f, "{session} wants {hosts} and {guests} links, calls {} devices", devices.len())
            }
            Self::Send { to, .. } => write!(f, "message to {to}"),
            Self::List { to } => write!(f, "what was sent to {to}?"),
            Self::Nonsense => f.write_str("nonsense"),
        }
    }
}

impl SimulatedRequest {
    pub(super) fn of(which: SimulatedApi, request: &Request) -> Self {
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

    /// The session or the expert that it is about.
    pub(super) fn key(&self) -> &str {
        match self {
            Self::Links { session, .. } => session,
            Self::Send { to, .. } | Self::List { to } => to,
            Self::Nonsense => "nonsense",
        }
    }
}

/// Does what is asked; the body of the answer.
pub(super) fn act(state: &mut WorldState, asked: &SimulatedRequest) -> (String, Result<(), String>) {
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
        SimulatedRequest::Nonsense => (String::new(), Err("a call that no API knows".to_owned())),
    }
}

fn len(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}

/// An answer to another question: hosts for guests, a link twice, another base, or nothing at all.
pub(super) fn wrong(answer: &str) -> String {
    let Ok(mut answer) = serde_json::from_str::<Value>(answer) else { return answer.to_owned() };
    let Some(fields) = answer.as_object_mut() else { return answer.to_string() };
    let host = fields.get("host").cloned();
    let guest = fields.get("guest").cloned();
    match (host, guest) {
        (Some(host), Some(guest)) => match fastrand::u32(..4) {
            // As many hosts as guests, in each other's place, nobody could tell.
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
