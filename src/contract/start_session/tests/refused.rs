use super::*;

/// (text to replace in [`FULL`], replacement, expected error)
const WRONG: &[(&str, &str, &str)] = &[
    (FULL, "", "body: invalid JSON at line 1, column 0"),
    (FULL, "[]", "body: expected an object"),
    (FULL, "\"x\"", "body: expected an object"),
    (FULL, r#"["s",[["sms","+34600111222"]],[["a@b.co"]]]"#, "body: expected an object"),
    (r#""whatsapp""#, r#"{"whatsapp":null}"#, "`guests[0].channel`: expected a string"),
    (r#""sessionId": "visit-48151623","#, "", "`sessionId`: missing required field"),
    (
        r#""sessionId": "visit-48151623""#,
        r#""sessionId": """#,
        "`sessionId`: expected 1 to 128 characters, not all blank, and no control characters",
    ),
    (r#""sessionId": "visit-48151623""#, r#""sessionId": 7"#, "`sessionId`: expected a string"),
    (
        r#""sessionId": "visit-48151623""#,
        r#""sessionId": "a", "sessionId": "b""#,
        "`sessionId`: duplicate field",
    ),
    (
        r#""devices""#,
        r#""devcies""#,
        "`devcies`: unknown field (did you mean `devices`?); known here: sessionId, guests, experts, devices, vertical, hostLogin, notBefore, expiresAt, correlationId, attributes",
    ),
    (
        r#""devices""#,
        r#""+34600111222""#,
        "`(key 4 of 10)`: unknown field; known here: sessionId, guests, experts, devices, vertical, hostLogin, notBefore, expiresAt, correlationId, attributes",
    ),
    (
        r#""hostLogin""#,
        r#""hivPositive""#,
        "`(key 6 of 10)`: unknown field; known here: sessionId, guests, experts, devices, vertical, hostLogin, notBefore, expiresAt, correlationId, attributes",
    ),
    (
        r#""name": "Ana""#,
        r#""guestHasHiv": true"#,
        "`guests[0].(key 3 of 4)`: unknown field; known here: channel, address, name, locale, timeZone",
    ),
    (
        r#""sessionId": "v"#,
        r#""session_id": "v"#,
        "`session_id`: unknown field (did you mean `sessionId`?); known here: sessionId, guests, experts, devices, vertical, hostLogin, notBefore, expiresAt, correlationId, attributes",
    ),
    (
        r#""locale""#,
        r#""lokale""#,
        "`guests[0].lokale`: unknown field (did you mean `locale`?); known here: channel, address, name, locale, timeZone",
    ),
    (
        r#""+34600111222""#,
        r#""600 111 222""#,
        "`guests[0].address`: expected an E.164 number such as +14155550123",
    ),
    (r#""+34600111222""#, "34600111222", "`guests[0].address`: expected a string"),
    (r#""whatsapp""#, r#""telegram""#, "`guests[0].channel`: expected sms or whatsapp"),
    (
        r#"[{"channel": "whatsapp", "address": "+34600111222", "name": "Ana", "locale": "es"}]"#,
        "[]",
        "`guests`: expected at least one guest",
    ),
    (
        r#"[{"channel": "whatsapp", "address": "+34600111222", "name": "Ana", "locale": "es"}]"#,
        "[\"+34600111222\"]",
        "`guests[0]`: expected an object",
    ),
    (
        r#"[{"email": "expert@example.com", "name": "Dr Lee"}]"#,
        "[]",
        "`experts`: expected at least one expert",
    ),
    (
        r#"{"email": "expert@example.com", "name": "Dr Lee"}"#,
        "{}",
        "`experts[0]`: expected exactly one of email, personId, roomId",
    ),
    (
        "expert@example.com",
        "expert at example",
        "`experts[0].email`: expected an e-mail address such as expert@example.com",
    ),
    (
        "sip:Room-12@",
        "sips:room-12@",
        "`devices[0]`: expected a device address such as room-12@example.rooms.webex.com",
    ),
    ("sip:Room-12@", "theatre@", "`devices[0]`: expected a device listed in devices.allowed"),
    (r#""gen""#, r#""vet""#, "`vertical`: expected hc or gen"),
    ("false", "\"no\"", "`hostLogin`: expected a boolean"),
    (
        "2026-11-21T11:00:00Z",
        "tomorrow",
        "`expiresAt`: expected an RFC 3339 time such as 2026-11-21T10:00:00Z",
    ),
    ("2026-11-21T11:00:00Z", "2026-11-21T10:00:00Z", "`expiresAt`: expected a time after notBefore"),
    ("2026-11-21T11:00:00Z", "2026-11-21T09:00:00Z", "`expiresAt`: must be in the future"),
    (r#""chat-99""#, "99", "`attributes.(key 1 of 1)`: expected a string"),
    (
        r#""resumeKey""#,
        r#""a": "b", "hiv-positive": {}, "resumeKey""#,
        "`attributes.(key 2 of 3)`: expected a string",
    ),
    (r#""resumeKey": "chat-99""#, r#""email": 7, "z": """#, "`attributes.(key 1 of 2)`: expected a string"),
    (r#""resumeKey": "chat-99""#, r#""a": "", "a": """#, "`attributes`: expected no duplicate keys"),
    (
        r#""Ana""#,
        r#""Ana \ud83d""#,
        "`guests[0].name`: incomplete Unicode escape: a surrogate such as \\ud83d has no second half (a truncated emoji?)",
    ),
    (
        r#""Ana""#,
        r#""Ana \ud83d\u0041""#,
        "`guests[0].name`: incomplete Unicode escape: a surrogate such as \\ud83d has no second half (a truncated emoji?)",
    ),
    (
        r#""chat-99""#,
        r#""\ude00""#,
        "`attributes.(key 1 of 1)`: incomplete Unicode escape: a surrogate such as \\ud83d has no second half (a truncated emoji?)",
    ),
    (
        r#""Ana""#,
        "\"Ana\nB\"",
        "`guests[0].name`: unescaped line break or control character in a string; write it as an escape such as \\n",
    ),
    (r#""flow-7f3a""#, "{}", "`correlationId`: expected a string"),
];

#[test]
fn invalid_event_is_refused_with_path_and_expectation() {
    for (from, to, error) in WRONG {
        let body = FULL.replacen(from, to, 1);
        assert_ne!(body, FULL);
        let got = read(&body).unwrap_err();
        let got =
            if *error == "body: missing required field" { got.replace("`sessionId`", "body") } else { got };
        assert_eq!(&got, error, "for {to}");
    }
}

#[test]
fn text_other_than_utf_8_is_refused_by_name() {
    let read = |body: Vec<u8>| {
        let message = Message { body, ..Message::default() };
        Session::read(&message, &rules(), NOW.parse().unwrap()).unwrap_err().to_string()
    };
    let latin = FULL.replace("Ana", "@").bytes().map(|b| if b == b'@' { 0xe9 } else { b }).collect();
    assert_eq!(read(latin), "`guests[0].name`: expected text in UTF-8");
    let utf_16 = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(read(utf_16), "body: expected JSON in UTF-8; the body begins with a UTF-16 byte-order mark");
}

#[test]
fn deep_nesting_is_an_error_without_stack_overflow() {
    let error = read(&format!(r#"{{"attributes": {}"#, "[".repeat(100_000))).unwrap_err();
    assert!(error.starts_with("`attributes`") || error.starts_with("body"), "{error}");
}
