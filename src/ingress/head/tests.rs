use super::*;
use crate::ingress::openapi::document;

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

const JSON: (&str, &str) = ("content-type", "application/json");

fn read(more: &[(&'static str, &str)]) -> Result<StartHead, ProblemKind> {
    StartHead::read(&headers(&[&[JSON], more].concat()), false).map_err(|problem| problem.kind)
}

#[test]
fn key_is_the_same_quoted_or_bare() {
    let key = |text: &str| read(&[("idempotency-key", text)]).map(|head| head.key.unwrap().reveal().clone());
    for text in ["run-17", "\"run-17\"", " run-17 "] {
        assert_eq!(key(text).unwrap(), "run-17");
    }
    assert_eq!(key(r#""a\"b\\c""#).unwrap(), r#"a"b\c"#);
    assert_eq!(key(&"k".repeat(255)).unwrap().len(), 255);
    for wrong in ["", "\"\"", "a b", "\"a", "\"a\"b\"", r#""a\b""#, r#""a\""#, "\"", &"k".repeat(256)] {
        assert_eq!(key(wrong), Err(ProblemKind::Malformed), "{wrong}");
    }
    assert!(read(&[]).unwrap().key.is_none());
    // The description says the same.
    let document = document();
    let pattern = &document["paths"]["/v1/sessions"]["post"]["parameters"][0]["schema"]["pattern"];
    let pattern = regex::Regex::new(pattern.as_str().unwrap()).unwrap();
    for text in [
        "a",
        "\"a\"",
        r"a\",
        "a\"b",
        "\"a",
        "a\"",
        "\"\"",
        "\"",
        r#""a\b""#,
        r#""a\\""#,
        r#""a\"b""#,
        "",
        "a b",
    ] {
        assert_eq!(pattern.is_match(text), key(text).is_ok(), "{text}");
    }
    let twice = [("idempotency-key", "a"), ("idempotency-key", "a")];
    assert_eq!(read(&twice).unwrap_err(), ProblemKind::Malformed);
    assert!(StartHead::read(&headers(&[JSON]), true).is_err(), "required");
}

#[test]
fn only_json_and_cloud_events_in_utf8_without_encoding_are_accepted() {
    for (given, expected) in [
        ("application/json", Some(MEDIA_TYPES[0])),
        ("Application/JSON; charset=\"UTF-8\"", Some(MEDIA_TYPES[0])),
        ("application/json;charset=utf8", Some(MEDIA_TYPES[0])),
        ("application/cloudevents+json; charset=utf-8", Some(MEDIA_TYPES[1])),
        ("application/cloudevents-batch+json", None),
        ("application/json; charset=latin1", None),
        ("application/json; charset", None),
        ("text/json", None),
        ("", None),
    ] {
        let read = StartHead::read(&headers(&[("content-type", given)]), false);
        match expected {
            Some(expected) => assert_eq!(read.unwrap().media_type, expected, "{given}"),
            None => assert_eq!(read.unwrap_err().kind, ProblemKind::MediaType, "{given}"),
        }
    }
    assert_eq!(StartHead::read(&headers(&[]), false).unwrap_err().kind, ProblemKind::MediaType);
    assert_eq!(read(&[JSON]).unwrap_err(), ProblemKind::Malformed, "two content types");
    assert!(read(&[("content-encoding", "identity")]).is_ok());
    for encoding in ["gzip", "identity, gzip", ""] {
        assert_eq!(read(&[("content-encoding", encoding)]).unwrap_err(), ProblemKind::MediaType);
    }
}

#[test]
fn ambiguous_and_large_lengths_are_refused() {
    assert!(read(&[("content-length", "262144")]).is_ok());
    for (pairs, kind) in [
        (vec![("content-length", "262145")], ProblemKind::TooLarge),
        (vec![("content-length", "5"), ("content-length", "5")], ProblemKind::Malformed),
        (vec![("content-length", "5"), ("transfer-encoding", "chunked")], ProblemKind::Malformed),
        (vec![("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], ProblemKind::Malformed),
    ] {
        assert_eq!(read(&pairs).unwrap_err(), kind, "{pairs:?}");
    }
}

#[test]
fn attributes_of_a_cloud_event_are_decoded_and_complete() {
    let event = [
        ("ce-specversion", "1.0"),
        ("ce-id", "visit%2017"),
        ("ce-source", "/flows/a"),
        ("ce-type", "start"),
        ("ce-extra1", "%E2%82%AC"),
    ];
    let found = read(&event).unwrap().headers;
    assert_eq!(found["cloudEvents:id"], "visit 17");
    assert_eq!(found["cloudEvents:extra1"], "€");
    for left_out in 0..4 {
        let mut event = event.to_vec();
        event.remove(left_out);
        assert_eq!(read(&event).unwrap_err(), ProblemKind::Malformed);
    }
    for wrong in [
        ("ce-specversion", "1.0"),
        ("ce-extra", "%0a"),
        ("ce-extra", "%ff"),
        ("ce-extra_a", "x"),
        ("ce-", "x"),
    ] {
        assert_eq!(read(&[event.to_vec(), vec![wrong]].concat()).unwrap_err(), ProblemKind::Malformed);
    }
    let other_version = [("ce-specversion", "0.3"), event[1], event[2], event[3]];
    assert_eq!(read(&other_version).unwrap_err(), ProblemKind::Malformed);
}

#[test]
fn forwarded_address_is_believed_from_trusted_proxies_alone() {
    let trusted = ["10.0.0.0/8", "::1"].map(|text| AddressBlock::try_from(text.to_owned()).unwrap());
    for (peer, forwarded, expected) in [
        ("192.0.2.1", vec!["198.51.100.7"], "192.0.2.1"),
        ("10.0.0.1", vec![], "10.0.0.1"),
        ("10.0.0.1", vec!["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", vec!["1.1.1.1, 198.51.100.7, 10.2.2.2"], "198.51.100.7"),
        ("::1", vec!["1.1.1.1", "198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", vec!["198.51.100.7, nonsense"], "10.0.0.1"),
        ("10.0.0.1", vec!["203.0.113.9:51234"], "203.0.113.9"),
        ("10.0.0.1", vec!["203.0.113.9:51234, 10.2.2.2:80"], "203.0.113.9"),
        ("10.0.0.1", vec!["[2001:db8::1]:443"], "2001:db8::1"),
        ("10.0.0.1", vec!["[2001:db8::1]"], "2001:db8::1"),
        ("10.0.0.1", vec!["203.0.113.9:port"], "10.0.0.1"),
        ("10.0.0.1", vec!["[203.0.113.9]"], "10.0.0.1"),
        ("10.0.0.1", vec!["é, 203.0.113.9"], "203.0.113.9"),
    ] {
        let pairs: Vec<_> = forwarded.iter().map(|value| ("x-forwarded-for", *value)).collect();
        let address = client_address(peer.parse().unwrap(), &headers(&pairs), &trusted);
        assert_eq!(address, expected.parse::<IpAddr>().unwrap(), "{peer} {forwarded:?}");
    }
}
