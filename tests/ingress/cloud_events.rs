//! CloudEvents over HTTP, in structured and in binary mode.

use serde_json::{Value, json};

use testkit::{Rig, event};

use super::{Caller, Reply, reply, with};

async fn binary(caller: &Caller, source: &str, event: &Value) -> Reply {
    let request = caller.post().header("ce-specversion", "1.0").header("ce-type", "start");
    reply(request.header("ce-id", "run%201").header("ce-source", source).body(event.to_string())).await
}

#[tokio::test]
async fn cloud_event_is_identified_by_its_source_and_id_in_either_mode() {
    let rig = Rig::new().await;
    let worker = rig.start(&with(&[])).await;
    let caller = Caller::of(&worker).await;
    let mut published = rig.amqp.tap(&rig.name("sessions"), &["session.start"]).await;
    let first = binary(&caller, "/flows/a", &event(1)).await;
    assert_eq!(first.status, 202, "{first:?}");
    let message = published.next().await;
    assert_eq!((message.header("cloudEvents:id"), message.json()), ("run 1".into(), event(1)));
    assert_eq!(first.json()["eventId"], message.id());

    let repeat = binary(&caller, "/flows/a", &event(1)).await;
    assert_eq!(
        (repeat.json()["replayed"].clone(), &repeat.json()["eventId"]),
        (json!(true), &first.json()["eventId"])
    );
    let other = binary(&caller, "/flows/b", &event(2)).await;
    assert_ne!(other.json()["eventId"], first.json()["eventId"]);
    assert_eq!(binary(&caller, "/flows/b", &event(3)).await.problem(&rig), "key-reused");

    let wrapped =
        json!({"specversion": "1.0", "id": "9", "source": "/flows/a", "type": "start", "data": event(4)});
    let structured = || caller.http.post(caller.url("/v1/sessions")).bearer_auth(testkit::rig::CLIENT_TOKEN);
    let structured = |body: &Value| {
        structured().header("content-type", "application/cloudevents+json").body(body.to_string())
    };
    assert_eq!(reply(structured(&wrapped)).await.status, 202);
    let mut invalid = wrapped.clone();
    invalid["data"]["guests"][0]["channel"] = json!("fax");
    let refused = reply(structured(&invalid)).await;
    assert_eq!(refused.problem(&rig), "invalid");
    assert_eq!(refused.json()["errors"][0]["pointer"], "/data/guests/0/channel");
    // A content type that does not say that the body is a CloudEvent. The event is still identified by its source and id.
    let as_json = |n: usize| {
        let mut event = wrapped.clone();
        (event["id"], event["data"]) = (json!("10"), testkit::event(n));
        caller.post().body(event.to_string())
    };
    let accepted = reply(as_json(5)).await;
    assert_eq!((accepted.status, accepted.json()["sessionId"].as_str()), (202, Some("visit-5")));
    assert_eq!(reply(as_json(6)).await.problem(&rig), "key-reused");
    let links = rig.guest_links().await.take(4).await;
    assert_eq!(links.len(), 4);
    rig.until_experts_have(4).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
}
