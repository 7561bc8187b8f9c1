//! Bodies of start events, plain and as CloudEvents, and of host links.

use fastrand::Rng;
use instant_connect_worker::{
    contract::{
        decode,
        link::HostLink,
        message::Message,
        people::AllowedExperts,
        start_session::{self, Session, SessionRules, Vertical},
    },
    instant_connect::{
        links_call::{LINKS_MAX, LinksCall},
        request::{Crypto, LinkOptions, Request},
    },
    webex_messages::card::MessageRequest,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{
    count,
    mangle::{any_string, mangled},
    try_all,
};

/// Private texts in each body that no error may contain.
const NUMBER: &str = "611222333";
const ADDRESS: &str = "@surgery.example";
const HEADERS: [&str; 11] = [
    "cloudEvents:id",
    "cloudEvents_specversion",
    "cloudEvents:type",
    "cloudEvents:source",
    "traceparent",
    "tracestate",
    "x-attempts",
    "x-delivery-count",
    "x-not-before",
    "x-waited-ms",
    "x-first-failed-at",
];

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

pub(super) fn rules() -> SessionRules {
    SessionRules {
        subject_prefix: String::new(),
        vertical: Vertical::Hc,
        host_login: true,
        link_lifetime: SignedDuration::from_hours(2),
        devices: serde_json::from_value(json!(["room-*@surgery.example"])).unwrap(),
        experts: AllowedExperts::default(),
        guests: None,
    }
}

fn event(random: &mut Rng) -> Value {
    let mut event = json!({
        "sessionId": "visit-48151623",
        "guests": [{"channel": "whatsapp", "address": "+34611222333", "name": "Guadalupe", "locale": "es"}],
        "experts": [{"email": "winnifred@surgery.example", "name": "Dr Winnifred"}],
    });
    if random.bool() {
        event["devices"] = json!(["room-12@surgery.example", "sip:room-13@surgery.example"]);
        event["vertical"] = json!("gen");
        event["hostLogin"] = json!(false);
        event["notBefore"] = json!("2026-11-21T13:00:00Z");
        event["expiresAt"] = json!("2026-11-21T14:00:00+00:00");
        event["correlationId"] = json!("flow-7f3a");
        event["attributes"] = json!({"resumeKey": "chat-99", "more": ""});
        let number = json!({"channel": "sms", "address": "+14155550123"});
        event["guests"] = json!([event["guests"][0], number]);
        let (person, room) = ("Y2lzY29zcGFyazovL3VzL1BFT1BMRS8x", testkit::events::SPACE);
        event["experts"] = json!([event["experts"][0], {"personId": person}, {"roomId": room}]);
    }
    event
}

fn message(random: &mut Rng) -> Message {
    let mut message = Message::default();
    let mut body = event(random);
    match random.u8(..8) {
        0 | 1 => {
            message.content_type = Some("application/cloudevents+json; charset=utf-8".to_owned());
            body = json!({
                "specversion": "1.0", "id": "event-1", "type": "session.start", "source": "flow", "data": body,
                "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            });
        }
        2 => message.content_type = Some(any_string(random)),
        _ => {}
    }
    message.body = mangled(random, body);
    for header in HEADERS {
        if random.u8(..10) == 0 {
            let value = if random.bool() { "1.0".to_owned() } else { any_string(random) };
            message.headers.insert(header.to_owned(), value);
        }
    }
    message.message_id = random.bool().then(|| any_string(random));
    message.correlation_id = random.bool().then(|| any_string(random));
    message
}

/// Runs stage `link` up to the call of Instant Connect. Returns true if the body was accepted.
fn is_accepted_by_link(random: &mut Rng, rules: &SessionRules, options: &LinkOptions) -> bool {
    let message = message(random);
    let identity = start_session::identify(&message);
    assert!(!identity.event_id.as_str().is_empty());
    let (_, _, _) = (message.attempts(), message.deliveries(), message.not_before());
    let session = match Session::read(&message, rules, now()) {
        Ok(session) => session,
        Err(refusal) => {
            let reason = refusal.to_string();
            assert!(reason.len() < 1000, "{reason}");
            assert!(!reason.contains(NUMBER) && !reason.contains(ADDRESS), "{reason}");
            return false;
        }
    };
    assert!(!session.guests.is_empty() && !session.experts.is_empty());
    assert!(session.expires_at.timestamp() > now());
    assert!(session.not_before.is_none_or(|not_before| not_before < session.expires_at));
    assert!(session.devices.iter().all(|device| rules.devices.allows(device)));
    assert!(session.subject.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
    assert!((1..=128).contains(&session.subject.len()));
    let mut made = 0;
    while let Some(call) = LinksCall::after(made, session.experts.len(), session.guests.len()) {
        let request = serde_json::to_value(Request::new(options, &session, &call)).unwrap();
        let people = request["numHost"].as_u64().unwrap() + request["numGuest"].as_u64().unwrap();
        assert!((1..=LINKS_MAX as u64).contains(&people));
        assert_eq!(request["jwt"]["flow"]["data"].as_array().map_or(0, Vec::len), {
            if made == 0 { session.devices.len() } else { 0 }
        });
        made += call.links();
    }
    true
}

/// Runs stage `host` up to the call of Webex. Returns true if the body was accepted.
fn is_accepted_by_host(random: &mut Rng) -> bool {
    let body = json!({
        "eventId": "event-1", "sessionId": "visit-48151623",
        "expert": {"email": "winnifred@surgery.example", "name": "Dr Winnifred"}, "guests": ["Guadalupe", "Ana"],
        "url": "https://instant.webex.com/visit/ckmNR7I", "baseUrl": "https://instant.webex.com/visit/",
        "short": "ckmNR7I", "expiresAt": "2026-11-21T14:00:00Z", "attributes": {"number": "+34611222333"},
    });
    let link: HostLink = match decode::from_json(&mangled(random, body)) {
        Ok(link) => link,
        Err(invalid) => {
            let reason = invalid.to_string();
            assert!(reason.len() < 1000, "{reason}");
            assert!(!reason.contains(NUMBER) && !reason.contains(ADDRESS), "{reason}");
            return false;
        }
    };
    let Ok(address) = link.expert.address() else { return false };
    let message = serde_json::to_value(MessageRequest::new(&address, &link)).unwrap();
    assert_eq!(message["attachments"][0]["content"]["actions"][0]["url"], link.address.reveal());
    true
}

#[test]
fn random_bodies_are_accepted_or_refused() {
    let (rules, crypto) = (rules(), Crypto::default());
    let options = LinkOptions { aud: "aud".to_owned(), short_urls: true, crypto };
    try_all("random bodies", count("ICW_BODIES", 20_000), |random| {
        if random.u8(..8) == 0 {
            is_accepted_by_host(random)
        } else {
            is_accepted_by_link(random, &rules, &options)
        }
    });
}
