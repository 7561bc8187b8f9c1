use super::*;

#[test]
fn byte_order_mark_before_json_is_ignored() {
    assert!(read(&format!("\u{feff}{FULL}")).is_ok());
    let mut event = cloud_event(FULL);
    event.body.splice(..0, *b"\xef\xbb\xbf");
    assert!(Session::read(&event, &rules(), NOW.parse().unwrap()).is_ok());
}

#[test]
fn structured_cloud_event_is_unwrapped() {
    let message = cloud_event(FULL);
    let start = StartMessage::open(&message);
    let session = start.session(&rules(), NOW.parse().unwrap()).unwrap();
    assert_eq!(session.event_id.as_str(), "/flows/7#ce-1");
    assert_eq!(session.event_id, start.identity.event_id);
    assert_eq!(start.identity.trace.unwrap().trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
}

#[test]
fn structured_cloud_event_is_recognised_under_any_content_type() {
    for content_type in [None, Some("application/json"), Some("text/plain; charset=utf-8")] {
        let event = Message { content_type: content_type.map(str::to_owned), ..cloud_event(FULL) };
        let session = Session::read(&event, &rules(), NOW.parse().unwrap()).unwrap();
        assert_eq!(session.event_id.as_str(), "/flows/7#ce-1", "{content_type:?}");
    }
    let mentions_specversion = FULL.replace("chat-99", r#"\"specversion\""#);
    assert!(read(&mentions_specversion).is_ok(), "a plain event with the word in a value");
}

#[test]
fn library_envelope_is_refused_with_a_remedy() {
    let body = format!(r#"{{"messageId": "1", "messageType": ["urn:message:Start"], "message": {FULL}}}"#);
    let error = read(&body).unwrap_err();
    assert!(error.contains("MassTransit") && error.contains("UseRawJsonSerializer"), "{error}");
    let headers = BTreeMap::from([("NServiceBus.MessageId".to_owned(), "1".to_owned())]);
    let wrong = FULL.replace("sessionId", "$type");
    let sent = |body: &str| Message { body: body.into(), headers: headers.clone(), ..Message::default() };
    let error = Session::read(&sent(&wrong), &rules(), NOW.parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("NServiceBus"), "{error}");
    assert!(Session::read(&sent(FULL), &rules(), NOW.parse().unwrap()).is_ok(), "the body is the event");
}

#[test]
fn encoded_body_is_refused_naming_content_encoding() {
    let encoded = |encoding: &str| Message {
        body: FULL.into(),
        content_encoding: Some(encoding.to_owned()),
        ..Message::default()
    };
    let read = |encoding| Session::read(&encoded(encoding), &rules(), NOW.parse().unwrap());
    assert!(read("gzip").unwrap_err().to_string().contains("content_encoding"));
    for plain in ["", "identity", "UTF-8"] {
        assert!(read(plain).is_ok(), "{plain}");
    }
}

#[test]
fn paths_in_structured_cloud_event_start_at_data() {
    let wrong = cloud_event(&FULL.replace("+34600111222", "x"));
    let error = Session::read(&wrong, &rules(), NOW.parse().unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "`data.guests[0].address`: expected an E.164 number such as +14155550123");
}

#[test]
fn binary_cloud_event_attributes_are_read_from_headers() {
    for separator in [":", "_"] {
        let header = |name: &str, value: &str| (format!("cloudEvents{separator}{name}"), value.to_owned());
        let headers = BTreeMap::from([header("specversion", "1.0"), header("id", "ce-2")]);
        let message = Message { body: FULL.into(), headers, ..Message::default() };
        let session = Session::read(&message, &rules(), NOW.parse().unwrap()).unwrap();
        assert_eq!(session.event_id.as_str(), "ce-2");
    }
}

#[test]
fn invalid_cloud_event_is_refused() {
    for (body, error) in [
        ("{}", "`specversion`: missing required field"),
        (
            r#"{"specversion":"0.3","id":"a","type":"t","source":"s"}"#,
            "`specversion`: expected CloudEvents 1.0",
        ),
        (r#"{"specversion":"1.0","id":"","type":"t","source":"s"}"#, "`id`: expected a non-empty string"),
        (
            r#"{"specversion":"1.0","id":"a","type":"t","source":"s"}"#,
            "`data`: missing required field (data_base64 is not supported)",
        ),
    ] {
        let message = Message { body: body.into(), ..cloud_event("null") };
        assert_eq!(Session::read(&message, &rules(), NOW.parse().unwrap()).unwrap_err().to_string(), error);
    }
}
