//! The start events of a simulation, and what each calls for.

use std::time::Duration;

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::contract::ids::{self, EventId, Role};

/// The device that may be called.
pub(super) const ALLOWED: &str = "room-*@sim.example.com";

/// One start event: one body.
#[derive(Clone, Debug)]
pub(super) struct Event {
    /// Names its session: `s1`, `s2`, …
    pub(super) session: String,
    pub(super) id: EventId,
    pub(super) message_id: Option<String>,
    pub(super) content_type: &'static str,
    pub(super) body: Vec<u8>,
    pub(super) calls_for: CallsFor,
    /// The links that it calls for.
    pub(super) links: Vec<Wanted>,
    pub(super) devices: Vec<String>,
    /// When its session is over, where it says so.
    pub(super) expires_at: Option<Timestamp>,
    /// When it is sent, each time that it is.
    pub(super) sent: Vec<Duration>,
}

/// A link that an event calls for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) message_id: Uuid,
    pub(super) role: Role,
    /// Whom it is for: a number, an address, a person's or a room's id.
    pub(super) to: String,
    /// The routing key.
    pub(super) key: &'static str,
    /// Whether the list of what was sent can't be asked for.
    pub(super) room: bool,
}

/// What an event calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallsFor {
    Links,
    /// A dead letter of class `invalid`.
    Invalid,
    /// A dead letter of class `device-not-allowed`.
    DeviceNotAllowed,
}

/// `count` events that come within `spread`, some twice, some with an id that another one has.
pub(super) fn events(random: &mut Rng, count: usize, spread: Duration, begin: Timestamp) -> Vec<Event> {
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

/// An event that calls for links and is not over soon, sent `at` a time from `begin` on.
pub(super) fn plain(random: &mut Rng, number: usize, at: Duration, begin: Timestamp) -> Event {
    loop {
        let event = event(random, number, at, begin, None);
        if event.calls_for == CallsFor::Links && event.expires_at.is_none() && event.message_id.is_some() {
            return event;
        }
    }
}

/// An event that calls for links and is over some seconds after `begin`, when it is sent.
pub(super) fn short(random: &mut Rng, number: usize, begin: Timestamp) -> Event {
    let soon = begin + SignedDuration::from_secs(4);
    loop {
        let event = event(random, number, Duration::ZERO, begin, None);
        if event.calls_for == CallsFor::Links && event.expires_at.is_some_and(|at| at < soon) {
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
    let Draft { start, calls_for, devices, expires_at } = draft(random, number, sent_at, begin);
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
    let links = if calls_for == CallsFor::Links { wanted(&id, &start) } else { Vec::new() };
    Event {
        session: format!("s{number}"),
        id,
        message_id,
        content_type,
        body: body.into_bytes(),
        calls_for,
        links,
        devices,
        expires_at,
        sent: vec![at],
    }
}

/// What an event says.
struct Draft {
    start: Value,
    calls_for: CallsFor,
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
    let mut calls_for = CallsFor::Links;
    let mut devices = Vec::new();
    if random.u32(..3) == 0 {
        devices = (0..random.usize(1..=3)).map(|n| format!("room-{number}-{n}@sim.example.com")).collect();
        let mut named = devices.clone();
        if random.u32(..3) == 0 {
            named.push(format!("office-{number}@sim.example.com"));
            calls_for = CallsFor::DeviceNotAllowed;
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
        calls_for = CallsFor::Invalid;
        match random.u32(..4) {
            0 => start["guests"] = json!([]),
            1 => start["device"] = json!(["room-1@sim.example.com"]),
            2 => start["expiresAt"] = json!((begin - SignedDuration::from_secs(1)).to_string()),
            _ => start["guests"][0]["address"] = json!("12"),
        }
    }
    Draft { start, calls_for, devices, expires_at }
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

fn wanted(id: &EventId, start: &Value) -> Vec<Wanted> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |name: &str| start[name].as_array().cloned().unwrap_or_default();
    let guests = list("guests").into_iter().enumerate().map(|(position, guest)| Wanted {
        message_id: id.link_id(Role::Guest, position),
        role: Role::Guest,
        to: text(&guest["address"]),
        key: if guest["channel"] == "sms" { "guest.sms" } else { "guest.whatsapp" },
        room: false,
    });
    let hosts = list("experts").into_iter().enumerate().map(|(position, expert)| Wanted {
        message_id: id.link_id(Role::Host, position),
        role: Role::Host,
        to: ["email", "personId", "roomId"].iter().map(|name| text(&expert[*name])).collect(),
        key: "host.webex",
        room: !expert["roomId"].is_null(),
    });
    guests.chain(hosts).collect()
}

/// What tells bodies apart.
pub(super) fn fingerprint(body: &[u8]) -> Uuid {
    ids::hash(body)
}
