use super::*;
use crate::contract::BODY_BYTES_MAX;

#[test]
fn data_repeated_in_all_links_is_limited() {
    let session = |correlation: usize, name: usize| {
        let guest = |n| serde_json::json!({"channel": "sms", "address": format!("+34600{n:06}"), "name": "n".repeat(name)});
        let start = serde_json::json!({
            "sessionId": "visit-1", "correlationId": "c".repeat(correlation),
            "guests": (0..500).map(guest).collect::<Vec<_>>(),
            "experts": vec![serde_json::json!({"email": "expert@example.com"}); 400],
        });
        read(&start.to_string()).map(drop)
    };
    // 900 links, and 400 of them name 500 guests.
    let fits = ECHO_BYTES_MAX / 900 - "visit-1".len();
    session(fits, 0).unwrap();
    session(0, 41).unwrap();
    for refused in [session(fits + 1, 0), session(0, 42)] {
        let reason = refused.unwrap_err();
        assert!(
            reason.starts_with(
                "`correlationId`: correlationId, attributes and names are copied into every link"
            ),
            "{reason}"
        );
    }
}

#[test]
fn invalid_session_id_is_refused_by_check_and_schema() {
    let pattern = regex::Regex::new(SESSION_ID_PATTERN).unwrap();
    for (id, is_valid) in [
        ("visit 1", true),
        ("\u{e9}", true),
        ("", false),
        (" ", false),
        ("\u{a0}\t", false),
        ("a\n", false),
        ("\0a", false),
        ("a\u{85}", false),
    ] {
        let event = FULL.replace("\"visit-48151623\"", &serde_json::json!(id).to_string());
        assert_eq!((read(&event).is_ok(), pattern.is_match(id)), (is_valid, is_valid), "{id:?}");
    }
}

#[test]
fn total_size_of_device_addresses_is_limited() {
    let devices = |bytes: usize| {
        let one = |n| format!("room-{n:02}-{}@example.rooms.webex.com", "x".repeat(bytes - 32));
        let devices: Vec<_> = (0..100).map(one).collect();
        let devices = format!(r#""devices": {}"#, serde_json::json!(devices));
        let old = r#""devices": ["sip:Room-12@example.rooms.webex.com", "room-12@example.rooms.webex.com"]"#;
        read(&FULL.replace(old, &devices)).map(|session| session.devices.len())
    };
    assert_eq!(devices(DEVICES_BYTES_MAX / 100), Ok(100));
    let refused = devices(DEVICES_BYTES_MAX / 100 + 1).unwrap_err();
    assert_eq!(refused, "`devices`: expected device addresses of at most 16384 bytes in total");
}

#[test]
fn attributes_over_the_limit_are_refused() {
    let with = |n: usize| FULL.replace("chat-99", &"x".repeat(n));
    assert!(read(&with(ATTRIBUTES_BYTES_MAX - "resumeKey".len())).is_ok());
    let error = read(&with(ATTRIBUTES_BYTES_MAX - "resumeKey".len() + 1)).unwrap_err();
    assert_eq!(error, "`attributes`: 4097 bytes; the limit is 4096");
}

#[test]
fn body_over_the_limit_is_refused() {
    let error = read(&" ".repeat(BODY_BYTES_MAX + 1)).unwrap_err();
    assert_eq!(error, "body: 262145 bytes; the limit is 262144");
}
