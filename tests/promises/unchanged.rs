//! With `guests.delivery = "amqp"`, each message is byte for byte what it was before the worker could send to guests itself.
//!
//! `unchanged.txt` was recorded with the program of commit c26db63, the last one without ingress, senders and receipts:
//! `ICW_TEST_PROGRAM=… ICW_TEST_RECORD=1 cargo test --test main -- unchanged`. It contains all properties, all headers
//! and the raw body of each message, and the message to each expert. Only random values and times of day are replaced by names in braces.

use std::{fmt::Write as _, fs, path::Path};

use jiff::Timestamp;
use lapin::{
    BasicProperties,
    types::{AMQPValue, ShortString},
};
use serde_json::{Value, json};

use testkit::{
    Rig,
    amqp::{Received, headers, with_id},
    events::{DEVICE, SPACE, email, event_with, number},
};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const EXPIRES_AT: &str = "2099-01-01T00:00:00Z";

/// Every field of the event, both channels, and every way to name an expert.
fn full_event() -> Value {
    json!({
        "sessionId": "Sala nº 1 / \u{1F469}\u{200D}\u{2695}\u{FE0F} \"Ana\"",
        "guests": [
            {"channel": "sms", "address": number(1)},
            {"channel": "whatsapp", "address": number(2), "name": "Guadalupe <b>&amp; \\ é</b>", "locale": "es-419"},
            {"channel": "sms", "address": number(3), "name": "Ana https://example.com\u{202E}"},
        ],
        "experts": [
            {"email": email(1), "name": "Winnifred"},
            {"personId": "Y2lzY29zcGFyazovL3VzL1BFT1BMRS8x"},
            {"roomId": SPACE, "name": "Room"},
        ],
        "devices": [format!("sip:{}", DEVICE.to_uppercase())],
        "vertical": "gen",
        "hostLogin": true,
        "notBefore": "2026-11-21T10:00:00+02:00",
        "expiresAt": EXPIRES_AT,
        "correlationId": "flowsecret-7f3a",
        "attributes": {"resumeKey": "flowsecret-99", "a": "", "ü": "\n\t\u{7f}"},
    })
}

/// The message as text. Values that differ in each run are replaced by names in braces.
fn text_of(rig: &Rig, message: &Received) -> String {
    let properties = &message.properties;
    let short =
        |text: &Option<ShortString>| text.as_ref().map_or("none".to_owned(), |text| text.as_str().to_owned());
    let mut text = format!("{} to {:?}\n", message.routing_key, message.exchange);
    let timestamp = if properties.timestamp().is_some() { "{time}" } else { "none" };
    let properties = [
        ("delivery mode", format!("{:?}", properties.delivery_mode())),
        ("priority", format!("{:?}", properties.priority())),
        ("content type", short(properties.content_type())),
        ("content encoding", short(properties.content_encoding())),
        ("expiration", short(properties.expiration())),
        ("type", short(properties.kind())),
        ("message id", short(properties.message_id())),
        ("correlation id", short(properties.correlation_id())),
        ("reply to", short(properties.reply_to())),
        ("app id", short(properties.app_id())),
        ("user id", short(properties.user_id())),
        ("cluster id", short(properties.cluster_id())),
        ("timestamp", timestamp.to_owned()),
    ];
    let headers = message.headers().into_iter().map(|(name, value)| {
        let value = match &value {
            AMQPValue::LongString(value) => value.to_string(),
            other => format!("{other:?}"),
        };
        let value = match name.as_str() {
            "traceparent" => format!("{}{{span}}{}", &value[..36], &value[52..]),
            // For a person; its words may change.
            "x-dead-reason" => "{reason}".to_owned(),
            _ if value.parse::<Timestamp>().is_ok() => "{time}".to_owned(),
            _ => value,
        };
        (format!("header {name}"), value)
    });
    for (name, value) in properties.map(|(name, value)| (name.to_owned(), value)).into_iter().chain(headers) {
        writeln!(text, "{name}: {value}").unwrap();
    }
    let body = String::from_utf8(message.body.clone()).unwrap();
    let short =
        serde_json::from_str::<Value>(&body).ok().and_then(|body| body["short"].as_str().map(str::to_owned));
    let body = short.map_or(body.clone(), |short| body.replace(&short, "{short}"));
    format!("{text}{body}\n").replace(&rig.name(""), "{prefix}.")
}

fn traced(message_id: &str) -> BasicProperties {
    with_id(message_id)
        .with_content_type("application/json".into())
        .with_headers(headers(&[("traceparent", TRACEPARENT), ("mine", "flowsecret")]))
}

#[tokio::test]
async fn messages_are_byte_for_byte_those_before_the_senders() {
    let rig = Rig::new().await;
    let worker = rig.start(&[("devices.allowed", DEVICE)]).await;
    let keys = ["guest.sms", "guest.whatsapp", "host.webex"];
    let mut links = rig.amqp.tap(&rig.name("links"), &keys).await;
    let mut dead = rig.dead_letters("sessions").await;

    rig.publish_event(traced("full"), &full_event()).await;
    let mut messages = links.take(6).await;
    let least = event_with(2, &json!({"correlationId": null, "attributes": null, "expiresAt": EXPIRES_AT}));
    rig.publish_event(traced("least").with_correlation_id("flowsecret-property".into()), &least).await;
    messages.extend(links.take(2).await);
    let cloud_event = json!({
        "specversion": "1.0", "id": "cloud", "source": "/flows/7", "type": "video.start", "datacontenttype": "application/json",
        "data": event_with(3, &json!({"expiresAt": EXPIRES_AT})),
    });
    let properties = traced("ignored").with_content_type("application/cloudevents+json".into());
    rig.publish_body(properties, cloud_event.to_string().as_bytes()).await;
    messages.extend(links.take(2).await);
    rig.until_experts_have(5).await;
    messages.sort_by_key(Received::id);

    for (id, more) in [
        ("misspelt", json!({"device": [DEVICE]})),
        ("ended", json!({"expiresAt": "2020-01-01T00:00:00Z"})),
        ("stranger", json!({"devices": ["other@example.rooms.webex.com"]})),
        ("address", json!({"guests": [{"channel": "sms", "address": "600111222"}]})),
    ] {
        rig.publish_event(traced(id), &event_with(4, &more)).await;
        messages.push(dead.next().await);
    }
    rig.sandbox.fault("joseencrypt:status=400".parse().unwrap());
    rig.publish_event(traced("rejected"), &event_with(5, &json!({"expiresAt": EXPIRES_AT}))).await;
    messages.push(dead.next().await);

    let experts = rig.sandbox.messages();
    let mut texts: Vec<String> = messages.iter().map(|message| text_of(&rig, message)).collect();
    let mut cards: Vec<String> = experts
        .iter()
        .map(|message| {
            let to = json!([message.to_person_email, message.to_person_id]);
            let card = &message.attachments[0]["content"];
            let url = card["actions"][0]["url"].as_str().unwrap();
            let short = url.rsplit('/').next().unwrap();
            format!("expert {to}\n{:?}\n{card}\n", message.markdown).replace(short, "{short}")
        })
        .collect();
    cards.sort();
    texts.append(&mut cards);
    let got = texts.join("\n");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/promises/unchanged.txt");
    if std::env::var_os("ICW_TEST_RECORD").is_some() {
        fs::write(&path, &got).unwrap();
    }
    assert_same(&fs::read_to_string(&path).unwrap(), &got);
    worker.stop().await;
}

/// Names the first line that differs.
fn assert_same(expected: &str, got: &str) {
    for (n, (expected, got)) in expected.lines().zip(got.lines()).enumerate() {
        assert_eq!(expected, got, "line {} of unchanged.txt", n + 1);
    }
    assert_eq!(expected.lines().count(), got.lines().count());
}
