//! A start event becomes a message to each guest, once.

use instant_connect_sandbox::{Endpoint, SentContent};
use serde_json::{Value, json};

use super::SendRig;
use testkit::{
    amqp::with_id,
    events::{event_with, number},
    rig::BASE_URL,
};

fn guests() -> Value {
    json!({"guests": [
        {"channel": "sms", "address": number(1), "name": "Guadalupe", "locale": "es-MX"},
        {"channel": "sms", "address": number(2), "name": "www.guadalupe.example"},
        {"channel": "whatsapp", "address": number(3), "name": "Guadalupe", "locale": "es"},
        {"channel": "whatsapp", "address": number(4), "locale": "fr"},
    ]})
}

#[tokio::test]
async fn each_guest_gets_the_link_once_even_if_the_event_is_repeated() {
    let send = SendRig::new().await;
    let worker = send.start(&[]).await;
    let event = event_with(1, &guests());
    send.rig.publish_event(with_id("event-1"), &event).await;
    send.until_sent(4).await;
    send.rig.publish_event(with_id("event-1"), &event).await;
    send.rig.publish(2).await;
    send.until_sent(5).await;
    worker.stop().await;
    let sends = send.connect.sends();
    assert_eq!(sends.len(), 5, "the repeated event sent nothing");
    let to = |n: usize| {
        let number = number(n);
        let found = sends.iter().filter(|sent| sent.address.trim_start_matches('+') == &number[1..]);
        let found: Vec<_> = found.collect();
        (found[0].clone(), found.len())
    };
    for n in 1..=4 {
        let (message, times) = to(n);
        // Event 2 goes to number 2.
        assert_eq!(times, if n == 2 { 2 } else { 1 });
        assert!(message.url.as_ref().unwrap().starts_with(BASE_URL));
        let id = uuid::Uuid::parse_str(message.correlation_id.as_ref().unwrap()).unwrap();
        assert_eq!(id.get_version_num(), 5, "receipts name the link's message_id");
    }
    let text = |n: usize| match to(n).0.content {
        SentContent::Text { text } => text,
        content => panic!("{:?}", std::mem::discriminant(&content)),
    };
    assert!(text(1).contains("Guadalupe") && text(1).contains(to(1).0.url.as_ref().unwrap()), "in Spanish");
    assert!(!text(2).contains("example"), "a name that may be a link is left out");
    let (first, validity) = (to(1).0, to(1).0.validity_s.unwrap());
    assert_eq!(first.from.as_deref(), Some("34900123123"));
    assert!((7000..=7200).contains(&validity), "until the session's end: {validity}");
    for (n, expected, name) in [(3, "link-es", "Guadalupe"), (4, "link-en", "-")] {
        let SentContent::Template { template, parameters, .. } = to(n).0.content else {
            panic!("no template")
        };
        assert_eq!((template.as_str(), &parameters["name"]), (expected, &json!(name)));
        assert_eq!(parameters["join"]["type"], "url");
    }
    assert_eq!(send.connect.arrivals(Endpoint::Any).len(), 5);
    send.rig.assert_queues_are_empty(&send.rig.amqp).await;
    assert_eq!(send.rig.amqp.depth(&send.rig.name("guests")).await, None, "it is not declared");
}

#[tokio::test]
async fn event_with_an_unreachable_guest_gets_no_link() {
    let send = SendRig::new().await;
    let worker = send.start(&[("webex_connect.whatsapp_app_id", "")]).await;
    let mut dead = send.rig.dead_letters("sessions").await;
    for (n, guest, reason) in [
        (1, json!({"channel": "sms", "address": "+14155550123"}), "guests[0].address"),
        (2, json!({"channel": "whatsapp", "address": number(2)}), "guests[0].channel"),
    ] {
        let event = event_with(n, &json!({"guests": [guest]}));
        send.rig.publish_event(with_id(&format!("event-{n}")), &event).await;
        let letter = dead.next().await;
        assert_eq!(letter.header("x-dead-class"), "invalid");
        assert!(letter.header("x-dead-reason").contains(reason), "{}", letter.header("x-dead-reason"));
    }
    worker.stop().await;
    assert_eq!(send.rig.sandbox.counts().calls, 0, "no link was made");
    assert_eq!(send.connect.counts().sends, 0);
}

#[tokio::test]
async fn link_of_another_producer_is_checked_again() {
    let send = SendRig::new().await;
    let worker = send.start(&[]).await;
    let mut dead = send.rig.dead_letters("guests.sms").await;
    let link = |more: Value| {
        let mut link = json!({
            "eventId": "event-1", "sessionId": "visit-1", "channel": "sms", "to": number(1),
            "url": format!("{BASE_URL}flowsec"), "baseUrl": BASE_URL, "short": "flowsec",
            "expiresAt": "2999-01-01T00:00:00Z",
        });
        link.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        link.to_string().into_bytes()
    };
    for (n, more, class) in [
        (1, json!({"to": "+14155550123"}), "invalid"),
        (2, json!({"url": "https://evil.example/visit/a"}), "invalid"),
        (3, json!({"channel": "whatsapp"}), "invalid"),
        (6, json!({"short": "another"}), "invalid"),
        (
            7,
            json!({"url": "https://instant.webex.com/hc/v1/login?int=jose&v=1&data=a.b.c.d.e", "baseUrl": null, "short": null}),
            "invalid",
        ),
        (4, json!({"expiresAt": "2020-01-01T00:00:00Z"}), "expired"),
        (
            5,
            json!({"expiresAt": (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(30)).to_string()}),
            "expired",
        ),
    ] {
        let (exchange, id) = (send.rig.name("links"), format!("link-{n}"));
        send.rig.amqp.publish(&exchange, "guest.sms", with_id(&id), &link(more)).await;
        assert_eq!(dead.next().await.header("x-dead-class"), class, "{n}");
    }
    worker.stop().await;
    assert_eq!(send.connect.counts().sends, 0);
}
