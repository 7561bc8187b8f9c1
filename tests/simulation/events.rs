//! The start events of a simulation and their expected results.

use std::time::Duration;

use fastrand::Rng;
use instant_connect_worker::contract::ids::{self, EventId, Role};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

/// The devices that may be called.
pub(crate) const ALLOWED: &str = "room-*@sim.example.com";

/// One start event with one body.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// The session id: `s1`, `s2`, …
    pub(crate) session: String,
    pub(crate) id: EventId,
    pub(crate) message_id: Option<String>,
    pub(crate) content_type: &'static str,
    pub(crate) body: Vec<u8>,
    pub(crate) expected: ExpectedResult,
    /// The expected links.
    pub(crate) links: Vec<ExpectedLink>,
    pub(crate) devices: Vec<String>,
    /// The end of the session, if the event names one.
    pub(crate) expires_at: Option<Timestamp>,
    /// All times at which the event is sent.
    pub(crate) sent: Vec<Duration>,
    /// The `Idempotency-Key`, if a client of the ingress sends the event.
    pub(crate) key: Option<String>,
}

/// A link that an event must lead to.
#[derive(Clone, Debug)]
pub(crate) struct ExpectedLink {
    pub(crate) message_id: Uuid,
    pub(crate) role: Role,
    /// The recipient: a phone number, an e-mail address, or the id of a person or a room.
    pub(crate) to: String,
    /// The routing key.
    pub(crate) key: &'static str,
    /// True if the messages sent to the recipient can't be listed.
    pub(crate) room: bool,
}

/// The result that an event must lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExpectedResult {
    Links,
    /// A dead letter of class `invalid`.
    Invalid,
    /// A dead letter of class `device-not-allowed`.
    DeviceNotAllowed,
}

/// Creates `count` events within `spread`. Some are sent twice; some share an id.
pub(crate) fn events(random: &mut Rng, count: usize, spread: Duration, begin: Timestamp) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for number in 1..=count {
        let at = spread.mul_f64(random.f64());
        let id_of_another = match events.last() {
            Some(other) if random.u32(..12) == 0 => other.message_id.clone(),
            _ => None,
        };
        let mut event = event(random, number, at, begin, id_of_another);
        if random.u32(..5) == 0 {
            for _ in 0..random.u32(1..=2) {
                event.sent.push(at + spread.mul_f64(random.f64() * random.f64()));
            }
        }
        events.push(event);
    }
    events
}

/// A valid event without an early end, sent `at` after `begin`.
pub(crate) fn plain(random: &mut Rng, number: usize, at: Duration, begin: Timestamp) -> Event {
    loop {
        let event = event(random, number, at, begin, None);
        if event.expected == ExpectedResult::Links && event.expires_at.is_none() && event.message_id.is_some()
        {
            return event;
        }
    }
}

/// A valid event whose session ends some seconds after `begin`, when the event is sent.
pub(crate) fn short(random: &mut Rng, number: usize, begin: Timestamp) -> Event {
    let soon = begin + SignedDuration::from_secs(4);
    loop {
        let event = event(random, number, Duration::ZERO, begin, None);
        if event.expected == ExpectedResult::Links && event.expires_at.is_some_and(|at| at < soon) {
            return event;
        }
    }
}

fn event(
    random: &mut Rng,
    number: usize,
    at: Duration,
    begin: Timestamp,
    id_of_another: Option<String>,
) -> Event {
    let sent_at = begin + SignedDuration::try_from(at).unwrap_or_default();
    let Draft { start, expected, devices, expires_at } = draft(random, number, sent_at, begin);
    let wrapped = random.u32(..6) == 0;
    let cloud_id = format!("c{number}");
    let (content_type, body) = if wrapped {
        let event =
            json!({"specversion": "1.0", "id": cloud_id, "type": "t", "source": "/sim", "data": start});
        ("application/cloudevents+json", event.to_string())
    } else {
        ("application/json", start.to_string())
    };
    let message_id = id_of_another.or_else(|| (random.u32(..4) > 0).then(|| format!("m{number}")));
    let cloud_event = wrapped.then(|| ids::cloud_event(Some("/sim"), &cloud_id));
    let id = EventId::of(message_id.as_deref(), cloud_event.as_deref(), body.as_bytes());
    let links = if expected == ExpectedResult::Links { wanted(&id, &start) } else { Vec::new() };
    Event {
        session: format!("s{number}"),
        id,
        message_id,
        content_type,
        body: body.into_bytes(),
        expected,
        links,
        devices,
        expires_at,
        sent: vec![at],
        key: None,
    }
}

impl Event {
    /// The same event if the client `client` of the ingress sends it, with a key.
    pub(crate) fn over_http(self, client: &str) -> Self {
        let key = format!("key-{}", self.session);
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let start = body.get("data").unwrap_or(&body);
        let id = ids::hash(format!("ingress/default/{client}/{key}").as_bytes()).to_string();
        let message_id = Some(id.clone());
        let id = EventId::of(Some(&id), None, &self.body);
        let links = if self.expected == ExpectedResult::Links { wanted(&id, start) } else { Vec::new() };
        Self { id, message_id, links, key: Some(key), ..self }
    }
}

/// The content of an event.
struct Draft {
    start: Value,
    expected: ExpectedResult,
    devices: Vec<String>,
    expires_at: Option<Timestamp>,
}

fn draft(random: &mut Rng, number: usize, sent_at: Timestamp, begin: Timestamp) -> Draft {
    let many = random.u32(..25) == 0;
    let guests = if many { random.usize(20..40) } else { random.usize(1..=3) };
    let mut start = json!({
        "sessionId": format!("s{number}"),
        "guests": (0..guests).map(|position| guest(random, number, position)).collect::<Vec<_>>(),
        "experts": (0..random.usize(1..=2)).map(|position| expert(random, number, position)).collect::<Vec<_>>(),
    });
    let mut expected = ExpectedResult::Links;
    let mut devices = Vec::new();
    if random.u32(..3) == 0 {
        devices = (0..random.usize(1..=3)).map(|n| format!("room-{number}-{n}@sim.example.com")).collect();
        let mut named = devices.clone();
        if random.u32(..3) == 0 {
            named.push(format!("office-{number}@sim.example.com"));
            expected = ExpectedResult::DeviceNotAllowed;
        }
        start["devices"] = json!(named);
    }
    let expires_at = (random.u32(..3) > 0).then(|| {
        let left = [3, 20, 60, 240, 3600][random.usize(..5)];
        let at = sent_at + SignedDuration::from_secs(left);
        Timestamp::from_second(at.as_second()).unwrap_or(at)
    });
    if let Some(expires_at) = expires_at {
        start["expiresAt"] = json!(expires_at.to_string());
    }
    if random.u32(..10) == 0 {
        expected = ExpectedResult::Invalid;
        match random.u32(..4) {
            0 => start["guests"] = json!([]),
            1 => start["device"] = json!(["room-1@sim.example.com"]),
            2 => start["expiresAt"] = json!((begin - SignedDuration::from_secs(1)).to_string()),
            _ => start["guests"][0]["address"] = json!("12"),
        }
    }
    Draft { start, expected, devices, expires_at }
}

fn guest(random: &mut Rng, number: usize, position: usize) -> Value {
    let channel = if random.bool() { "sms" } else { "whatsapp" };
    json!({"channel": channel, "address": format!("+34600{:03}{:03}", number % 1000, position), "name": "Ana"})
}

fn expert(random: &mut Rng, number: usize, position: usize) -> Value {
    match random.u32(..3) {
        0 => json!({"email": format!("e{number}-{position}@example.com")}),
        1 => json!({"personId": format!("person{number}-{position}")}),
        _ => json!({"roomId": format!("room{number}-{position}")}),
    }
}

fn wanted(id: &EventId, start: &Value) -> Vec<ExpectedLink> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |name: &str| start[name].as_array().cloned().unwrap_or_default();
    let guests = list("guests").into_iter().enumerate().map(|(position, guest)| ExpectedLink {
        message_id: id.link_id(Role::Guest, position),
        role: Role::Guest,
        to: text(&guest["address"]),
        key: if guest["channel"] == "sms" { "guest.sms" } else { "guest.whatsapp" },
        room: false,
    });
    let hosts = list("experts").into_iter().enumerate().map(|(position, expert)| ExpectedLink {
        message_id: id.link_id(Role::Host, position),
        role: Role::Host,
        to: ["email", "personId", "roomId"].iter().map(|name| text(&expert[*name])).collect(),
        key: "host.webex",
        room: !expert["roomId"].is_null(),
    });
    guests.chain(hosts).collect()
}

/// An id that is different for each body.
pub(crate) fn fingerprint(body: &[u8]) -> Uuid {
    ids::hash(body)
}
