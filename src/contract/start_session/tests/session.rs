use super::*;
use crate::contract::{decode::Invalid, header, ids};

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
fn subject_starts_with_the_configured_prefix() {
    let rules = SessionRules { subject_prefix: "test-".to_owned(), ..rules() };
    let subject = |id: &str| {
        let body = FULL.replace("visit-48151623", id).into();
        Session::read(&Message { body, ..Message::default() }, &rules, NOW.parse().unwrap()).unwrap().subject
    };
    assert_eq!(subject("visit-1"), "test-visit-1");
    assert_eq!(subject("a b"), format!("test-{}", ids::hash(b"a b")));
}

#[test]
fn expert_outside_the_allow_list_is_refused() {
    let session = |allowed: &str| {
        let rules = SessionRules { experts: serde_json::from_str(allowed).unwrap(), ..rules() };
        let message = Message { body: FULL.into(), ..Message::default() };
        Session::read(&message, &rules, NOW.parse().unwrap()).map(drop)
    };
    assert_eq!(session(r#"["*@example.com"]"#), Ok(()));
    let expected = Invalid::new("experts[0].email", "expected an expert listed in hosts.allowed");
    assert_eq!(session(r#"["*@clinic.example"]"#), Err(Refusal::Invalid(expected)));
}

#[test]
fn correlation_id_with_control_character_is_only_in_the_body() {
    let session = read(&FULL.replace("flow-7f3a", r"flow\u0000")).unwrap();
    assert_eq!(session.correlation.reveal(), session.event_id.as_str());
    assert_eq!(session.correlation_id.unwrap().reveal(), "flow\0");
}

#[test]
fn correlation_id_too_long_for_amqp_is_only_in_the_body() {
    let session = read(&FULL.replace("flow-7f3a", &"x".repeat(256))).unwrap();
    assert_eq!(session.correlation.reveal(), session.event_id.as_str());
    assert_eq!(session.correlation_id.unwrap().reveal().len(), 256);
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
        let headers = headers.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
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
        let event = [("cloudEvents:specversion", "1.0"), ("cloudEvents:id", "1"), ("cloudEvents:time", none)];
        assert_eq!(read(None, &event).unwrap(), "2026-11-21T11:00:00Z", "zero means no time");
    }
    let refused = read(Some("2026-11-18T09:00:00Z"), &[]).unwrap_err();
    assert!(matches!(&refused, Refusal::Expired(_)) && refused.to_string().contains("own time"), "{refused}");
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
