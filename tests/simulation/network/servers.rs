//! The state of the APIs: their faults, and the effects of calls.

use std::collections::BTreeMap;

use fastrand::Rng;
use instant_connect_worker::contract::{ids::Role, stage::StageDef};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::requests::SimulatedRequest;
use crate::{checker::Checker, per_stage::PerStage};

/// The base URL of short links.
pub(crate) const BASE_URL: &str = "https://instant.webex.com/visit/";

/// A link that the API created.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedLinks {
    pub(crate) session: String,
    pub(crate) role: Role,
    /// Seconds since the epoch.
    pub(crate) until: i64,
}

/// State of all APIs.
pub(crate) struct Servers {
    /// The token that is accepted.
    token: String,
    /// The present fault of each API that affects all calls.
    outages: PerStage<Option<Outage>>,
    failing: Option<FailingSession>,
    /// Sessions whose calls are slow.
    slow: Vec<String>,
    /// The links that were made, by their short ids.
    links: BTreeMap<String, SimulatedLinks>,
    /// The messages that were sent: recipient and text.
    messages: Vec<(String, String)>,
    /// Number of messages to guests.
    to_guests: usize,
}

/// A session whose calls all fail.
#[derive(Clone, Debug)]
pub(crate) struct FailingSession {
    pub(crate) session: String,
    pub(crate) status: u16,
    /// In seconds.
    pub(crate) retry_after: Option<i64>,
}

/// A fault of an API that affects all calls.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outage {
    Unreachable,
    Status(u16),
    Hangs,
    /// Rate limited until this time.
    Limited(Timestamp),
}

impl Outage {
    /// Returns true if every call fails without a Retry-After.
    pub(super) const fn is_total(self) -> bool {
        !matches!(self, Self::Limited(_))
    }

    /// A random total outage.
    pub(crate) fn new(random: &mut Rng) -> Self {
        match random.u32(..4) {
            0 => Self::Unreachable,
            1 => Self::Hangs,
            _ => Self::Status([500, 502, 503][random.usize(..3)]),
        }
    }
}

impl Servers {
    pub(crate) fn new(token: String) -> Self {
        Self {
            token,
            outages: PerStage::default(),
            failing: None,
            slow: Vec::new(),
            links: BTreeMap::new(),
            messages: Vec::new(),
            to_guests: 0,
        }
    }

    /// The token that is accepted.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Changes the token that is accepted.
    pub(crate) fn set_token(&mut self, token: &str) {
        token.clone_into(&mut self.token);
    }

    /// The present fault of the stage's API that affects all calls.
    pub(super) fn outage(&self, stage: &StageDef) -> Option<Outage> {
        self.outages[stage.name]
    }

    /// Begins or ends a fault of the stage's API that affects all calls.
    pub(crate) fn set_outage(&mut self, stage: &StageDef, outage: Option<Outage>) {
        self.outages[stage.name] = outage;
    }

    /// The fault of all calls for `key`.
    pub(super) fn failing(&self, key: &str) -> Option<&FailingSession> {
        self.failing.as_ref().filter(|failing| failing.session == key)
    }

    /// Lets the calls of one session fail.
    pub(crate) fn set_failing(&mut self, failing: Option<FailingSession>) {
        self.failing = failing;
    }

    /// True if the calls for `key` are slow.
    pub(super) fn is_slow(&self, key: &str) -> bool {
        self.slow.iter().any(|slow| slow == key)
    }

    /// Makes the calls of these sessions slow, and those of all others not.
    pub(crate) fn set_slow(&mut self, sessions: &[String]) {
        sessions.clone_into(&mut self.slow);
    }

    /// The links that were made, by their short ids.
    pub(crate) const fn links(&self) -> &BTreeMap<String, SimulatedLinks> {
        &self.links
    }

    /// Carries out the request. Returns the response body, and an error if the request broke a rule.
    pub(super) fn act(
        &mut self,
        checker: &mut Checker,
        asked: &SimulatedRequest,
    ) -> (String, Result<(), String>) {
        match asked {
            SimulatedRequest::Links { session, hosts, guests, devices, until } => {
                let rule = checker.links_made(session, devices, *until);
                let host = self.make(session, Role::Host, *hosts, *until);
                let guest = self.make(session, Role::Guest, *guests, *until);
                (json!({"host": host, "guest": guest, "baseUrl": BASE_URL}).to_string(), rule)
            }
            SimulatedRequest::Send { to, text } => {
                let rule = checker.message_sent(to, text);
                self.messages.push((to.clone(), text.clone()));
                (json!({"id": format!("message-{}", self.messages.len()), "roomId": to}).to_string(), rule)
            }
            SimulatedRequest::List { to } => {
                // In a space, a bot sees only messages that mention it.
                let sent = self.messages.iter().filter(|(other, _)| other == to && !checker.is_room(to));
                let items: Vec<Value> = sent.map(|(_, text)| json!({"markdown": text})).collect();
                (json!({"items": items}).to_string(), Ok(()))
            }
            SimulatedRequest::ToGuest(message) => {
                let rule = checker.guest_message_sent(&self.links, message);
                self.to_guests += 1;
                let id = format!("transaction-{}", self.to_guests);
                let answer = if message.channel == "sms" {
                    json!({"messageId": id, "correlationId": message.id, "status": "queued"})
                } else {
                    json!({"response": [{"code": "1001", "transid": id, "correlationid": message.id}]})
                };
                (answer.to_string(), rule)
            }
            // Webex Connect accepts the key, and misses the content.
            SimulatedRequest::TryKey => (json!({"code": "7003"}).to_string(), Ok(())),
            SimulatedRequest::Nonsense => {
                (String::new(), Err("a request that the API does not define".to_owned()))
            }
        }
    }

    /// Makes `count` links of `session`. Returns them as the API does.
    fn make(&mut self, session: &str, role: Role, count: usize, until: i64) -> Vec<Value> {
        let links = &mut self.links;
        let made = (0..count).map(|_| {
            let short = format!("{}{}", role.as_str(), links.len());
            links.insert(short.clone(), SimulatedLinks { session: session.to_owned(), role, until });
            json!({"cipher": "a.b.c.d.e", "short": short})
        });
        made.collect()
    }
}
