//! `POST /resources/v1/events/externalevent/`.

use serde_json::{Value, json};

use super::{ConnectProbe, serve};
use crate::{KnownEvent, RefusalShape, SentContent};

fn event(id: &str, parameters: &Value) -> Value {
    json!({"events": [{"evtid": id, "correlationid": "0b5a8f7e", "parameters": parameters}]})
}

async fn probe() -> ConnectProbe {
    let event = KnownEvent { id: "EVTVIDEO1".to_owned(), mandatory: vec!["resumeKey".to_owned()] };
    serve(|settings| settings.events = vec![event]).await
}

#[tokio::test]
async fn accepted_event_is_recorded_and_answered_as_object_or_array() {
    let probe = probe().await;
    let parameters = json!({"resumeKey": "chat-99", "url": "https://instant.webex.com/visit/ckmNR7I"});
    for shape in [RefusalShape::Object, RefusalShape::Array] {
        probe.handle.change_settings(|settings| settings.refusal_shape = Some(shape));
        let reply = probe.event(&event("EVTVIDEO1", &parameters)).await;
        assert_eq!((reply.status, reply.code().as_str()), (200, "1002"));
        assert_eq!(reply.json()["response"].is_array(), shape == RefusalShape::Array);
    }
    let send = probe.handle.sends().remove(1);
    assert_eq!(send.url.as_deref(), Some("https://instant.webex.com/visit/ckmNR7I"));
    assert!(matches!(send.content, SentContent::Event { known: true, .. }));
    assert!(probe.phones.texts().is_empty());
}

/// Webex Connect does not tell the caller that no flow gets an event.
#[tokio::test]
async fn unknown_event_is_accepted_and_recorded_as_unknown() {
    let probe = probe().await;
    assert_eq!(probe.event(&event("EVTOTHER", &json!({}))).await.code(), "1002");
    assert!(matches!(probe.handle.sends().remove(0).content, SentContent::Event { known: false, .. }));
}

#[tokio::test]
async fn invalid_event_is_refused_with_its_code_in_200() {
    let probe = probe().await;
    let cases = [
        (json!({"events": []}), "7003"),
        (json!({"events": [{}]}), "7003"),
        (json!({"events": [{"evtid": "EVTVIDEO1", "correlationid": "x".repeat(51)}]}), "7004"),
        (event("EVTVIDEO1", &json!({"url": "x"})), "7025"),
        (json!({"events": [{"evtid": "E"}], "expiry": "2020-01-01T00:00:00Z"}), "7019"),
        (json!({"events": [{"evtid": "E"}], "expiry": "soon"}), "7004"),
    ];
    for (body, code) in cases {
        let reply = probe.event(&body).await;
        assert_eq!((reply.status, reply.code().as_str()), (200, code), "{body}");
    }
    assert_eq!(probe.handle.counts().sends, 0);
    assert_eq!(probe.handle.counts().events, 6);
}
