//! An invalid event becomes a dead letter with its reason and does not delay other events.

use std::collections::BTreeMap;

use jiff::Timestamp;
use lapin::types::AMQPValue;
use serde_json::{Value, json};

use testkit::{
    Rig,
    amqp::{Received, headers, with_id},
    event,
    events::{DEVICE, OPAQUE, event_with, number},
};

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Invalid bodies, each with the class and the start of the reason.
fn bad_bodies() -> Vec<(Vec<u8>, &'static str, &'static str)> {
    let past = json!({"notBefore": "2020-01-01T10:00:00Z", "expiresAt": "2020-01-01T11:00:00Z"});
    let backwards = json!({"notBefore": "2126-01-01T11:00:00Z", "expiresAt": "2126-01-01T10:00:00Z"});
    let device = json!({"devices": [DEVICE, "salon-4711@example.net"]});
    let wrong = |more: Value| event_with(7, &more).to_string().into_bytes();
    let guests = |second: Value| json!({"guests": [{"channel": "sms", "address": number(1)}, second]});
    let large = json!({"attributes": {"resumeKey": OPAQUE, "filler": "x".repeat(300 * 1024)}});
    vec![
        (b"".to_vec(), "invalid", "body: invalid JSON at line 1, column 0"),
        (b"flowsecret, but no JSON".to_vec(), "invalid", "body: invalid JSON"),
        (vec![0xff, 0xfe, 0x00], "invalid", "body: expected JSON"),
        (br#""a text""#.to_vec(), "invalid", "body: expected an object"),
        (wrong(json!({"guests": "flowsecret"})), "invalid", "`guests`: expected a sequence"),
        (wrong(json!({"sessionId": null})), "invalid", "`sessionId`: missing required field"),
        (wrong(json!({"devces": []})), "invalid", "`devces`: unknown field (did you mean `devices`?)"),
        (
            wrong(guests(json!({"channel": "sms", "address": number(2), "nmae": "Guadalupe"}))),
            "invalid",
            "`guests[1].nmae`: unknown field (did you mean `name`?); known here: channel, address, name, locale, timeZone",
        ),
        (
            wrong(guests(json!({"channel": "fax", "address": number(2)}))),
            "invalid",
            "`guests[1].channel`: expected",
        ),
        (
            wrong(guests(json!({"channel": "sms", "address": "34600000002"}))),
            "invalid",
            "`guests[1].address`: expected an E.164 number such as +14155550123",
        ),
        (
            wrong(json!({"experts": [{"email": "winnifred-at-example"}]})),
            "invalid",
            "`experts[0].email`: expected an e-mail address",
        ),
        (
            wrong(json!({"experts": [{"email": "winnifred-1@example.com", "roomId": "Winnifred"}]})),
            "invalid",
            "`experts[0]`: expected exactly one of email, personId, roomId",
        ),
        (wrong(json!({"guests": []})), "invalid", "`guests`: expected at least one guest"),
        (wrong(large), "invalid", "body: 307"),
        (wrong(past), "invalid", "`expiresAt`: must be in the future"),
        (wrong(backwards), "invalid", "`expiresAt`: expected a time after notBefore"),
        (wrong(json!({"expiresAt": 1_795_255_200})), "invalid", "`expiresAt`: expected"),
        (wrong(device), "device-not-allowed", "`devices[1]`: expected a device listed in devices.allowed"),
    ]
}

fn assert_dead_letter(letter: &Received, class: &str, reason: &str, since: Timestamp) {
    assert_eq!(letter.header("x-dead-class"), class);
    let said = letter.header("x-dead-reason");
    assert!(said.starts_with(reason), "expected `{reason}`, found `{said}`");
    for private in ["flowsecret", "Guadalupe", "innifred", "346000", "salon-4711", "x".repeat(20).as_str()] {
        assert!(!said.contains(private), "{said}");
    }
    assert_eq!(letter.headers()["x-attempts"], AMQPValue::LongLongInt(1));
    let time = |name: &str| letter.header(name).parse::<Timestamp>().unwrap();
    assert!(since <= time("x-first-failed-at") && time("x-first-failed-at") <= time("x-dead-at"));
    assert!(time("x-dead-at") <= Timestamp::now());
}

#[tokio::test]
async fn invalid_event_is_dead_lettered_unchanged_with_its_reason() {
    let rig = Rig::new().await;
    // One at a time: an invalid event that blocked the stage would also block the valid event behind it.
    let allowed = ("devices.allowed", DEVICE);
    let worker = rig.start(&[allowed, ("amqp.concurrency", "1"), ("amqp.prefetch", "1")]).await;
    let mut dead = rig.dead_letters("sessions").await;
    let since = Timestamp::now();
    let bodies = bad_bodies();
    for (n, (body, ..)) in bodies.iter().enumerate() {
        let traceparent = format!("00-{TRACE_ID}-00f067aa0ba902b7-01");
        let properties = with_id(&format!("bad-{n}"))
            .with_content_type("application/json".into())
            .with_correlation_id("flowsecret".into())
            .with_type("start".into())
            .with_app_id("flow".into())
            .with_timestamp(1_700_000_000)
            .with_priority(3)
            .with_headers(headers(&[("traceparent", &traceparent), ("x-mine", "flowsecret")]));
        rig.publish_body(properties, body).await;
    }
    rig.publish(1).await;
    let link = rig.guest_links().await.next().await;
    assert_eq!(link.json()["eventId"], "event-1", "the next event is processed");

    let letters: BTreeMap<String, Received> =
        dead.take(bodies.len()).await.into_iter().map(|letter| (letter.id(), letter)).collect();
    for (n, (body, class, reason)) in bodies.iter().enumerate() {
        let letter = &letters[&format!("bad-{n}")];
        assert_dead_letter(letter, class, reason, since);
        assert_eq!(letter.body, *body, "the body is unchanged");
        let properties = &letter.properties;
        let text = |text: &Option<lapin::types::ShortString>| text.as_ref().unwrap().as_str().to_owned();
        assert_eq!(text(properties.content_type()), "application/json");
        assert_eq!(text(properties.correlation_id()), "flowsecret");
        assert_eq!((text(properties.kind()), text(properties.app_id())), ("start".into(), "flow".into()));
        assert_eq!((*properties.timestamp(), *properties.priority()), (Some(1_700_000_000), Some(3)));
        assert_eq!(*properties.delivery_mode(), Some(2), "a dead letter is persistent");
        assert_eq!(letter.header("x-mine"), "flowsecret");
        assert!(letter.header("traceparent").starts_with(&format!("00-{TRACE_ID}-")));
    }
    assert_eq!(rig.sandbox.counts().joseencrypt, 1, "no bad event reached Instant Connect");
    rig.until_experts_have(1).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
}

#[tokio::test]
async fn invalid_event_without_properties_gets_all_dead_letter_headers() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let since = Timestamp::now();
    rig.publish_body(lapin::BasicProperties::default(), b"{}").await;
    let letter = rig.dead_letters("sessions").await.next().await;
    assert_dead_letter(&letter, "invalid", "`sessionId`: missing required field", since);
    assert_eq!(letter.header("traceparent").len(), 55, "a new trace starts with the dead letter");
    worker.stop().await;
}

/// Keys of `attributes` are the flow's own, and may say as much as their values.
#[tokio::test]
async fn key_that_a_flow_chose_is_shown_nowhere() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let since = Timestamp::now();
    let attributes = json!({"attributes": {"a": "b", "hiv-flowsecret": 7}});
    rig.publish_event(with_id("event-1"), &event_with(1, &attributes)).await;
    let letter = rig.dead_letters("sessions").await.next().await;
    assert_dead_letter(&letter, "invalid", "`attributes.(key 2 of 2)`: expected a string", since);
    worker.stop().await;
}

#[tokio::test]
async fn event_with_device_is_dead_lettered_if_none_is_allowed() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let since = Timestamp::now();
    let device = json!({"devices": [DEVICE]});
    rig.publish_event(with_id("event-1"), &event_with(1, &device)).await;
    let letter = rig.dead_letters("sessions").await.next().await;
    assert_dead_letter(&letter, "device-not-allowed", "`devices[0]`: expected a device", since);
    worker.stop().await;
    assert_eq!(rig.sandbox.counts().joseencrypt, 0);
    rig.assert_queues_are_empty(&rig.amqp).await;
}

#[tokio::test]
async fn invalid_host_link_is_dead_lettered_without_blocking_others() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    worker.output.until("subscribed to queue", 2).await;
    let mut dead = rig.dead_letters("hosts").await;
    let since = Timestamp::now();
    let links = rig.name("links");
    let guest = json!({"eventId": "e", "sessionId": "s", "channel": "sms", "to": number(1), "url": "https://instant.webex.com/visit/x", "expiresAt": "2126-01-01T10:00:00Z"});
    let script = json!({"eventId": "e", "sessionId": "s", "expert": {"email": "winnifred-1@example.com"}, "guests": [], "url": "javascript:alert(1)", "expiresAt": "2126-01-01T10:00:00Z"});
    let over = json!({"eventId": "e", "sessionId": "s", "expert": {"email": "winnifred-1@example.com"}, "guests": [], "url": "https://instant.webex.com/visit/x", "expiresAt": "2020-01-01T10:00:00Z"});
    for (body, class, reason) in [
        (json!({}), "invalid", "`eventId`: missing required field"),
        (event(1), "invalid", "`guests[0]`: expected a string"),
        (guest, "invalid", "`expert`: missing required field"),
        (script, "invalid", "`url`: expected an Instant Connect link"),
        (over, "expired", "the session has ended"),
    ] {
        rig.amqp.publish(&links, "host.webex", with_id("bad"), body.to_string().as_bytes()).await;
        let letter = dead.next().await;
        assert_dead_letter(&letter, class, reason, since);
        assert_eq!(letter.json(), body);
    }
    rig.publish(1).await;
    rig.until_experts_have(1).await;
    assert_eq!(rig.sandbox.counts().message_requests, 1);
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
}
