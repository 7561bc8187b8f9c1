//! Publishers and consumers that know nothing of this project.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
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
async fn a_plain_client_publishes_json_and_gets_the_link_on_a_queue_of_its_own() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let mut sender = rig.guest_links().await;
    let event = event(1);
    let seen = stranger(&rig, &event).await;
    let namespace = Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"instant-connect-worker");
    let event_id = Uuid::new_v5(&namespace, event.to_string().as_bytes()).to_string();
    assert_eq!(seen["key"], "guest.sms");
    assert_eq!(seen["body"]["eventId"], event_id, "an event without an id is known by its body");
    assert_eq!(seen["body"]["to"], event["guests"][0]["address"]);
    let sent = sender.next().await;
    assert_eq!(
        (sent.json(), json!(sent.id())),
        (seen["body"].clone(), seen["id"].clone()),
        "both get the same"
    );
    worker.stop().await;
}

#[tokio::test]
async fn it_gets_the_link_although_nobody_takes_from_the_guests_queue() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let seen = stranger(&rig, &event(1)).await;
    assert_eq!(seen["body"]["sessionId"], "visit-1");
    assert_eq!(rig.amqp.depth(&rig.name("guests")).await, Some((1, 0)), "the senders' copy waits for them");
    worker.stop().await;
}

#[tokio::test]
async fn a_structured_cloud_event_is_served_under_its_own_id() {
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
async fn a_binary_cloud_event_is_served_under_its_own_id_with_either_separator() {
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
async fn the_message_id_goes_before_the_cloud_events_id() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let table = headers(&[("cloudEvents:specversion", "1.0"), ("cloudEvents:id", "cloud-1")]);
    rig.publish_event(with_id("event-1").with_headers(table), &event(1)).await;
    assert_eq!(rig.guest_links().await.next().await.json()["eventId"], "event-1");
    worker.stop().await;
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_put_aside_by_the_broker_and_slows_nobody_down_from_then_on() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let admin = Admin::of(&worker).await;
    let all = r#""queue":"SESSIONS","prefetch":32"#.replace("SESSIONS", &rig.name("sessions"));
    worker.output.until(&all, 1).await;
    python("unreadable.py", &[rig.url(), &rig.name("sessions"), "session.start"]).await;
    rig.publish(1).await;
    let (dead, aside) = (rig.name("sessions.dead"), "the unreadable message to be put aside");
    poll(aside, async || (rig.amqp.depth(&dead).await? == (1, 0)).then_some(())).await;
    assert_eq!(rig.guest_links().await.next().await.json()["eventId"], "event-1", "its neighbour is served");

    worker.output.until(&all, 2).await;
    rig.sandbox.fault("joseencrypt:hang".parse().unwrap());
    rig.publish_many(2..=3).await;
    admin.until("in_flight{stage=\"link\"}", "2").await;
    rig.sandbox.clear_faults();
    worker.kill();
}
