mod envelope;
mod limits;
mod random;
mod refused;
mod session;

use jiff::SignedDuration;

use super::*;
use crate::contract::{message::Message, people::AllowedExperts};

const NOW: &str = "2026-11-21T09:00:00Z";

const FULL: &str = r#"{
    "sessionId": "visit-48151623",
    "guests":  [{"channel": "whatsapp", "address": "+34600111222", "name": "Ana", "locale": "es"}],
    "experts": [{"email": "expert@example.com", "name": "Dr Lee"}],
    "devices": ["sip:Room-12@example.rooms.webex.com", "room-12@example.rooms.webex.com"],
    "vertical": "gen", "hostLogin": false,
    "notBefore": "2026-11-21T10:00:00Z", "expiresAt": "2026-11-21T11:00:00Z",
    "correlationId": "flow-7f3a", "attributes": {"resumeKey": "chat-99"}}"#;

fn rules() -> SessionRules {
    SessionRules {
        subject_prefix: String::new(),
        vertical: Vertical::Hc,
        host_login: true,
        link_lifetime: SignedDuration::from_hours(2),
        devices: serde_json::from_str(r#"["room-*@example.rooms.webex.com"]"#).unwrap(),
        experts: AllowedExperts::default(),
        guests: None,
    }
}

fn read(body: &str) -> Result<Session, String> {
    let message = Message { body: body.into(), ..Message::default() };
    Session::read(&message, &rules(), NOW.parse().unwrap()).map_err(|refusal| refusal.to_string())
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
