//! Publishers and consumers that do not know this project.

use serde_json::{Value, json};
use uuid::Uuid;

use testkit::{
    Rig,
    admin::Admin,
    amqp::{headers, with_id},
    event, poll,
    python::python,
};

async fn stranger(rig: &Rig, event: &Value) -> Value {
    let answer = python("amqp_stranger.py", &[rig.url(), &rig.prefix, &event.to_string()]).await;
    serde_json::from_str(&answer).unwrap()
}

#[tokio::test]
async fn plain_client_gets_the_link_on_its_own_queue() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let mut sender = rig.guest_links().await;
    let event = event(1);
    let seen = stranger(&rig, &event).await;
    let namespace = Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"instant-connect-worker");
    let event_id = Uuid::new_v5(&namespace, event.to_string().as_bytes()).to_string();
    assert_eq!(seen["key"], "guest.sms");
    assert_eq!(seen["body"]["eventId"], event_id, "the id of an event without one is derived from its body");
    assert_eq!(seen["body"]["to"], event["guests"][0]["address"]);
    let sent = sender.next().await;
    assert_eq!(
        (sent.json(), json!(sent.id())),
        (seen["body"].clone(), seen["id"].clone()),
        "both consumers get the same link"
    );
    worker.stop().await;
}

#[tokio::test]
async fn plain_client_gets_link_while_guest_queue_has_no_consumer() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let seen = stranger(&rig, &event(1)).await;
    assert_eq!(seen["body"]["sessionId"], "visit-1");
    assert_eq!(rig.amqp.depth(&rig.name("guests")).await, Some((1, 0)), "the senders' copy waits for them");
    worker.stop().await;
}

#[tokio::test]
async fn structured_cloud_event_keeps_its_id() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let body = json!({"specversion": "1.0", "id": "cloud-1", "type": "video.start", "source": "/flows/7", "data": event(1)});
    let plain = lapin::BasicProperties::default();
    let properties = plain.with_content_type("application/cloudevents+json; charset=utf-8".into());
    rig.publish_event(properties, &body).await;
    let link = rig.guest_links().await.next().await.json();
    assert_eq!((&link["eventId"], &link["sessionId"]), (&json!("/flows/7#cloud-1"), &json!("visit-1")));
    worker.stop().await;
}

#[tokio::test]
async fn binary_cloud_event_keeps_its_id_with_either_separator() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let mut guests = rig.guest_links().await;
    for (n, separator) in [(1, ':'), (2, '_')] {
        let attribute = |name: &str| format!("cloudEvents{separator}{name}");
        let id = format!("cloud-{n}");
        let table = headers(&[
            (&attribute("specversion"), "1.0"),
            (&attribute("id"), &id),
            (&attribute("type"), "video.start"),
            (&attribute("source"), "/flows/7"),
        ]);
        let properties = lapin::BasicProperties::default().with_headers(table);
        rig.publish_event(properties.with_content_type("application/json".into()), &event(n)).await;
        assert_eq!(guests.next().await.json()["eventId"], json!(format!("/flows/7#{id}")));
    }
    worker.stop().await;
}

#[tokio::test]
async fn message_id_overrides_the_cloud_events_id() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let table = headers(&[("cloudEvents:specversion", "1.0"), ("cloudEvents:id", "cloud-1")]);
    rig.publish_event(with_id("event-1").with_headers(table), &event(1)).await;
    assert_eq!(rig.guest_links().await.next().await.json()["eventId"], "event-1");
    worker.stop().await;
}

#[tokio::test]
async fn expert_outside_the_allow_list_gets_no_link() {
    let rig = Rig::new().await;
    let worker = rig.start(&[("hosts.allowed", "*@example.com")]).await;
    let mut stranger = event(1);
    stranger["experts"] = json!([{"email": "winnifred@elsewhere.example"}]);
    rig.publish_event(with_id("event-1"), &stranger).await;
    let letter = rig.dead_letters("sessions").await.next().await;
    let expected = "`experts[0].email`: expected an expert listed in hosts.allowed";
    assert_eq!([letter.header("x-dead-class"), letter.header("x-dead-reason")], ["invalid", expected]);
    assert_eq!(rig.sandbox.counts().joseencrypt, 0, "no link was made");

    // Another producer's host link, without an event.
    rig.publish(2).await;
    rig.until_experts_have(1).await;
    let link = json!({
        "eventId": "event-3", "sessionId": "visit-3", "expert": {"email": "winnifred@elsewhere.example"}, "guests": [],
        "url": "https://instant.webex.com/visit/ckmNR7I", "expiresAt": "2126-01-01T10:00:00Z",
    });
    rig.amqp.publish(&rig.name("links"), "host.webex", with_id("link-3"), link.to_string().as_bytes()).await;
    let letter = rig.dead_letters("hosts").await.next().await;
    let expected = "`expert.email`: expected an expert listed in hosts.allowed";
    assert_eq!([letter.header("x-dead-class"), letter.header("x-dead-reason")], ["invalid", expected]);
    assert_eq!(rig.sandbox.counts().messages, 1, "only the allowed expert has a message");
    worker.stop().await;
}

#[tokio::test]
async fn unreadable_message_is_dead_lettered_and_concurrency_recovers() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let admin = Admin::of(&worker).await;
    let all = r#""queue":"SESSIONS","prefetch":32"#.replace("SESSIONS", &rig.name("sessions"));
    worker.output.until(&all, 1).await;
    python("unreadable.py", &[rig.url(), &rig.name("sessions"), "session.start"]).await;
    rig.publish(1).await;
    let (dead, aside) = (rig.name("sessions.dead"), "the unreadable message to be dead-lettered");
    poll(aside, async || (rig.amqp.depth(&dead).await? == (1, 0)).then_some(())).await;
    assert_eq!(
        rig.guest_links().await.next().await.json()["eventId"],
        "event-1",
        "the next event is processed"
    );

    worker.output.until(&all, 2).await;
    rig.sandbox.fault("joseencrypt:hang".parse().unwrap());
    rig.publish_many(2..=3).await;
    admin.until("in_flight{stage=\"link\"}", "2").await;
    rig.sandbox.clear_faults();
    worker.kill();
}
