//! Each answer of the ingress. What is refused is not published.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use testkit::{
    Rig,
    admin::Admin,
    event,
    events::{DEVICE, OPAQUE, event_with, number},
    rig::CLIENT_TOKEN,
};

use super::{Caller, reply, with};

#[tokio::test]
async fn event_is_accepted_after_its_confirm_and_leads_to_links() {
    const KEY: &str = "run-of-the-flow-that-nobody-logs";
    let rig = Rig::new().await;
    let worker = rig.start(&with(&[])).await;
    let caller = Caller::of(&worker).await;
    let mut published = rig.amqp.tap(&rig.name("sessions"), &["session.start"]).await;
    let answer = caller.start(KEY, &event(1)).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("idempotent-replayed"), "false");
    assert_eq!(answer.header("location"), "/v1/sessions/visit-1");
    assert_eq!(answer.header("cache-control"), "no-store");
    let body = answer.json();
    let id = body["eventId"].as_str().unwrap().to_owned();
    assert_eq!(body, json!({"status": "accepted", "eventId": id, "sessionId": "visit-1", "replayed": false}));
    let message = published.next().await;
    assert_eq!((message.id(), message.json()), (id.clone(), event(1)));
    assert_eq!(*message.properties.delivery_mode(), Some(2), "persistent");
    let link = rig.guest_links().await.next().await;
    assert_eq!(link.json()["eventId"], id);
    rig.until_experts_have(1).await;
    let output = Arc::clone(&worker.output);
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    // The last spans are sent when the worker ends.
    let (spans, log) = (rig.collector.text(), output.text());
    assert!(spans.contains("POST /v1/sessions") && !spans.contains(KEY), "{spans}");
    assert!(log.contains("ingress: request completed") && !log.contains(KEY), "{log}");
}

#[tokio::test]
async fn trace_of_the_request_continues_in_the_messages() {
    const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let rig = Rig::new().await;
    let worker = rig.start(&with(&[])).await;
    let caller = Caller::of(&worker).await;
    let traceparent = format!("00-{TRACE_ID}-00f067aa0ba902b7-01");
    let request = caller.post().header("traceparent", traceparent).body(event(1).to_string());
    assert_eq!(reply(request).await.status, 202);
    let link = rig.guest_links().await.next().await;
    assert!(link.header("traceparent").contains(TRACE_ID));
    rig.until_experts_have(1).await;
    worker.stop().await;
    let spans = rig.collector.spans();
    let served = spans.iter().find(|span| span.name == "POST /v1/sessions").unwrap();
    assert_eq!((served.trace_id.as_str(), served.get("http.response.status_code")), (TRACE_ID, "202"));
    let published = spans.iter().find(|span| span.parent == served.id).unwrap();
    assert!(published.name.starts_with("publish "), "{published:?}");
}

/// Headers besides the token, a body, and status, type and pointer of the answer.
type Refused = (Vec<(&'static str, String)>, Vec<u8>, u16, &'static str, Option<&'static str>);

const JSON: &str = "application/json";

fn refused_bodies() -> Vec<Refused> {
    let typed = |body: Value, status, kind, pointer| {
        (vec![("content-type", JSON.to_owned())], body.to_string().into_bytes(), status, kind, Some(pointer))
    };
    let text = |body: &[u8], status, kind, pointer| {
        (vec![("content-type", JSON.to_owned())], body.to_vec(), status, kind, Some(pointer))
    };
    let changed = |more: Value| event_with(7, &more);
    vec![
        text(b"", 400, "malformed", ""),
        text(b"flowsecret, but no JSON", 400, "malformed", ""),
        text(format!("{} flowsecret", event(7)).as_bytes(), 400, "malformed", ""),
        text(b"\xff\xfe{\0}\0", 400, "malformed", ""),
        text(br#"{"sessionId": "flowsecret \ud83d"}"#, 400, "malformed", "/sessionId"),
        text(b"{\"sessionId\": \"flowsecret \xc3\x28\"}", 400, "malformed", "/sessionId"),
        text(b"{\"sessionId\": \"flowsecret \0\"}", 400, "malformed", "/sessionId"),
        text("[".repeat(1000).as_bytes(), 422, "invalid", ""),
        typed(changed(json!({"sessionId": "nul \0"})), 422, "invalid", "/sessionId"),
        typed(changed(json!({"guests": []})), 422, "invalid", "/guests"),
        typed(
            changed(json!({"guests": [{"channel": "sms", "address": number(1)[1..]}]})),
            422,
            "invalid",
            "/guests/0/address",
        ),
        typed(changed(json!({"devces": [DEVICE]})), 422, "invalid", "/devces"),
        typed(changed(json!({"attributes": {"hiv-flowsecret": 7}})), 422, "invalid", "/attributes"),
        typed(changed(json!({"expiresAt": "2020-01-01T10:00:00Z"})), 422, "invalid", "/expiresAt"),
        typed(changed(json!({"devices": [DEVICE]})), 422, "device-not-allowed", "/devices/0"),
    ]
}

fn refused_heads() -> Vec<Refused> {
    let valid = || event(7).to_string().into_bytes();
    let headers = |pairs: &[(&'static str, &str)], status, kind| {
        let pairs = pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        (pairs, valid(), status, kind, None)
    };
    let json = ("content-type", JSON);
    let large = json!({"attributes": {"resumeKey": OPAQUE, "filler": "x".repeat(256 * 1024)}});
    vec![
        headers(&[], 415, "media-type"),
        headers(&[("content-type", "text/plain")], 415, "media-type"),
        headers(&[("content-type", "application/cloudevents-batch+json")], 415, "media-type"),
        headers(&[("content-type", "application/json; charset=latin1")], 415, "media-type"),
        headers(&[json, ("content-encoding", "gzip")], 415, "media-type"),
        headers(&[json, ("idempotency-key", "two words")], 400, "malformed"),
        headers(&[json, ("idempotency-key", "\"")], 400, "malformed"),
        headers(&[json, ("idempotency-key", "a"), ("idempotency-key", "b")], 400, "malformed"),
        headers(&[json, ("ce-id", "1")], 400, "malformed"),
        (
            vec![("content-type", JSON.to_owned())],
            event_with(7, &large).to_string().into_bytes(),
            413,
            "too-large",
            None,
        ),
    ]
}

#[tokio::test]
async fn refused_request_has_its_status_and_type_and_is_not_published() {
    let rig = Rig::new().await;
    let worker = rig.start(&with(&[])).await;
    let caller = Caller::of(&worker).await;
    let cases: Vec<_> = refused_bodies().into_iter().chain(refused_heads()).collect();
    for (headers, body, status, kind, pointer) in &cases {
        let mut request =
            caller.http.post(caller.url("/v1/sessions")).bearer_auth(CLIENT_TOKEN).body(body.clone());
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let answer = reply(request).await;
        let case = String::from_utf8_lossy(&body[..body.len().min(80)]);
        assert_eq!(
            (answer.problem(&rig).as_str(), answer.status),
            (*kind, *status),
            "{headers:?} {case}: {answer:?}"
        );
        for private in ["flowsecret", "Guadalupe", "innifred", "346000", "salon-4711", "latin1", "two words"]
        {
            assert!(!answer.text.contains(private), "{answer:?}");
        }
        if let Some(pointer) = pointer {
            assert_eq!(answer.json()["errors"][0]["pointer"], *pointer, "{answer:?}");
        }
        if *status == 415 {
            assert_eq!(answer.header("accept-post"), "application/json, application/cloudevents+json");
        }
    }
    for (method, path, status, kind) in [
        (Method::GET, "/v1/sessions", 405, "method"),
        (Method::OPTIONS, "/v1/sessions", 405, "method"),
        (Method::POST, "/openapi.json", 405, "method"),
        (Method::POST, "/v1/sessions/", 404, "not-found"),
        (Method::GET, "/v1/sessions/visit-1", 404, "not-found"),
        (Method::GET, "/metrics", 404, "not-found"),
        (Method::GET, "/", 404, "not-found"),
    ] {
        let answer = reply(caller.http.request(method.clone(), caller.url(path))).await;
        assert_eq!((answer.problem(&rig).as_str(), answer.status), (kind, status), "{method} {path}");
        assert_eq!(answer.headers.contains_key("allow"), status == 405);
    }
    let series = Admin::of(&worker).await.series().await;
    let counted = |kind: &str| {
        series[&format!(r#"ingress_requests_total{{outcome="{kind}",route="sessions"}}"#)].clone()
    };
    assert_eq!((counted("media-type").as_str(), counted("device-not-allowed").as_str()), ("5", "1"));
    assert_eq!(counted("accepted"), "0");
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    assert_eq!(rig.sandbox.counts().joseencrypt, 0);
}

/// What the ingress says of an event is what stage `link` would say of it.
#[tokio::test]
async fn problem_is_the_reason_of_a_dead_letter() {
    let rig = Rig::new().await;
    let worker = rig.start(&with(&[])).await;
    let caller = Caller::of(&worker).await;
    let wrong = event_with(7, &json!({"guests": [{"channel": "sms", "address": "600111222"}]}));
    let answer = caller.start("run-7", &wrong).await;
    rig.publish_event(testkit::amqp::with_id("event-7"), &wrong).await;
    let letter = rig.dead_letters("sessions").await.next().await;
    assert_eq!(answer.json()["detail"], letter.header("x-dead-reason"));
    worker.stop().await;
}

#[tokio::test]
async fn description_is_served_without_a_token() {
    let rig = Rig::new().await;
    let worker = rig.start(&with(&[])).await;
    let caller = Caller::of(&worker).await;
    let answer = reply(caller.http.get(caller.url("/openapi.json"))).await;
    let expected =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/openapi.json")).unwrap();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    assert_eq!((answer.status, answer.json()), (200, expected));
    let head = reply(caller.http.head(caller.url("/openapi.json"))).await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
    worker.stop().await;
}
