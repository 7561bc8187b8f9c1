//! One start event becomes one link per person, in the wire format of the contract.

use std::collections::{BTreeMap, HashSet};

use instant_connect_sandbox::{Handle, RecordedCall, RecordedMessage, RecordedRole, RecordedVertical};
use jiff::Timestamp;
use lapin::types::AMQPValue;
use serde_json::{Value, json};
use uuid::Uuid;

use testkit::{
    Rig,
    amqp::{Received, headers, with_id},
    events::{DEVICE, SPACE, email, event_with, number},
    rig::BASE_URL,
};

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// The contract's rule, implemented a second time: UUIDv5 of event, role and position.
fn link_id(event_id: &str, role: &str, position: usize) -> String {
    let namespace = Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"instant-connect-worker");
    Uuid::new_v5(&namespace, format!("{event_id}/{role}/{position}").as_bytes()).to_string()
}

/// Checks everything about a link message except its body.
fn assert_properties(
    message: &Received,
    kind: &str,
    message_id: &str,
    correlation_id: &str,
    since: Timestamp,
) {
    let properties = &message.properties;
    let text = |text: &Option<lapin::types::ShortString>| text.as_ref().map(|text| text.as_str().to_owned());
    assert_eq!(*properties.delivery_mode(), Some(2), "persistent");
    assert_eq!(text(properties.content_type()).as_deref(), Some("application/json"));
    assert_eq!(text(properties.kind()).as_deref(), Some(kind));
    assert_eq!(text(properties.message_id()).as_deref(), Some(message_id));
    assert_eq!(text(properties.correlation_id()).as_deref(), Some(correlation_id));
    assert_eq!(text(properties.app_id()).as_deref(), Some("instant-connect-worker"));
    let seconds = i64::try_from(properties.timestamp().unwrap()).unwrap();
    assert!(
        (since.as_second()..=Timestamp::now().as_second()).contains(&seconds),
        "the timestamp is not in seconds since the epoch"
    );
    for absent in [properties.content_encoding(), properties.reply_to(), properties.expiration()] {
        assert_eq!(*absent, None);
    }
    assert_eq!((properties.user_id(), properties.cluster_id()), (&None, &None));
    assert_eq!(message.headers().into_keys().collect::<Vec<_>>(), ["traceparent", "x-deduplication-header"]);
    assert_eq!(message.header("x-deduplication-header"), message_id);
    assert_traceparent(&message.header("traceparent"));
}

fn assert_traceparent(traceparent: &str) {
    let parts: Vec<_> = traceparent.split('-').collect();
    assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 32, 16, 2], "{traceparent}");
    assert_eq!((parts[0], parts[1]), ("00", TRACE_ID), "the trace continues");
    assert_ne!(parts[2], "00f067aa0ba902b7", "the parent span is new");
}

/// The expected body of a link; fields that only the API knows are taken from the link itself.
fn with_link(message: &Received, mut expected: Value) -> Value {
    let body = message.json();
    let short = body["short"].as_str().unwrap();
    expected["short"] = json!(short);
    expected["baseUrl"] = json!(BASE_URL);
    expected["url"] = json!(format!("{BASE_URL}{short}"));
    expected
}

/// Checks that there was one call, for two guests and an expert, with the defaults of all optional fields.
fn assert_one_call_with_defaults(calls: &[RecordedCall], expires_at: i64, since: Timestamp) {
    assert_eq!(calls.len(), 1);
    let call = &calls[0];
    assert_eq!((call.sub.as_str(), call.nbf, call.devices.len()), ("visit-48151623", None, 0));
    assert_eq!((call.hosts, call.guests, call.short_urls), (1, 2, true));
    assert_eq!((call.vertical, call.login_url_for_host), (RecordedVertical::Hc, true));
    assert_eq!(call.exp, Some(expires_at));
    let lifetime = expires_at - 2 * 3600;
    assert!((since.as_second()..=Timestamp::now().as_second()).contains(&lifetime), "two hours");
}

/// Checks that each link leads to the session, in the role of the person who gets it.
fn assert_roles(sandbox: &Handle, guests: &[Received], host: &Received) {
    let known = sandbox.links();
    let link_of = |message: &Received| known[message.json()["short"].as_str().unwrap()].clone();
    assert!(guests.iter().all(|link| link_of(link).role == RecordedRole::Guest));
    assert_eq!(link_of(host).role, RecordedRole::Host);
    assert!(guests.iter().chain([host]).all(|link| link_of(link).sub == "visit-48151623"));
}

/// Checks that the expert's message names the guest, and that its card and its text contain the host link.
fn assert_invitation(message: &RecordedMessage, host_url: &str) {
    let card = &message.attachments[0];
    assert_eq!(card["contentType"], "application/vnd.microsoft.card.adaptive");
    let button = json!({"type": "Action.OpenUrl", "title": "Join session", "url": host_url});
    assert_eq!(card["content"]["actions"], json!([button]));
    let markdown = message.markdown.clone().unwrap();
    assert!(markdown.contains(&format!("[Join session]({host_url})")), "{markdown}");
    assert!(markdown.contains("Guadalupe"), "the expert's message names the guests");
}

fn seconds(time: &Value) -> i64 {
    time.as_str().unwrap().parse::<Timestamp>().unwrap().as_second()
}

#[tokio::test]
async fn session_reaches_guests_and_expert_with_five_settings() {
    let rig = Rig::new().await;
    let worker = rig.launch_with(rig.environment(&[]));
    worker.output.until("connected to broker; consuming", 1).await;
    let mut hosts = rig.amqp.tap(&rig.name("links"), &["host.webex"]).await;
    let mut guests = rig.guest_links().await;
    let since = Timestamp::now();
    let event = json!({
        "sessionId": "visit-48151623",
        "guests": [
            {"channel": "sms", "address": number(1)},
            {"channel": "whatsapp", "address": number(2), "name": "Guadalupe", "locale": "es",
             "timeZone": "America/New_York"},
        ],
        "experts": [{"email": email(1), "name": "Winnifred"}],
        "correlationId": "flowsecret-7f3a",
        "attributes": {"resumeKey": "flowsecret-99"},
    });
    let traceparent = format!("00-{TRACE_ID}-00f067aa0ba902b7-01");
    let properties = with_id("event-1").with_headers(headers(&[("traceparent", &traceparent)]));
    rig.publish_event(properties, &event).await;

    let (mut links, host) = (guests.take(2).await, hosts.next().await);
    rig.until_experts_have(1).await;
    links.sort_by_key(|link| link.routing_key.clone());
    let expires_at = links[0].json()["expiresAt"].clone();
    let echoed = json!({"eventId": "event-1", "sessionId": "visit-48151623", "expiresAt": expires_at,
        "correlationId": "flowsecret-7f3a", "attributes": {"resumeKey": "flowsecret-99"}});
    let with_echo = |fields: Value| {
        let mut body = echoed.clone();
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body
    };

    let expected = [
        ("guest.sms", 0, json!({"channel": "sms", "to": number(1)})),
        (
            "guest.whatsapp",
            1,
            json!({"channel": "whatsapp", "to": number(2), "name": "Guadalupe", "locale": "es", "timeZone": "America/New_York"}),
        ),
    ];
    for (link, (routing_key, position, fields)) in links.iter().zip(expected) {
        assert_eq!((link.exchange.clone(), link.routing_key.as_str()), (rig.name("links"), routing_key));
        let id = link_id("event-1", "guest", position);
        assert_properties(link, "video.guest-link.v1", &id, "flowsecret-7f3a", since);
        assert_eq!(
            link.json(),
            with_link(link, with_echo(fields)),
            "optional fields that were not given are left out"
        );
    }
    assert_properties(&host, "video.host-link.v1", &link_id("event-1", "host", 0), "flowsecret-7f3a", since);
    let fields = json!({"expert": {"email": email(1), "name": "Winnifred"}, "guests": ["Guadalupe"]});
    assert_eq!(host.json(), with_link(&host, with_echo(fields)));

    assert_one_call_with_defaults(&rig.sandbox.calls(), seconds(&expires_at), since);
    assert_roles(&rig.sandbox, &links, &host);
    let messages = rig.sandbox.messages();
    assert_eq!((messages.len(), messages[0].to_person_email.clone()), (1, Some(email(1))));
    assert_invitation(&messages[0], host.json()["url"].as_str().unwrap());
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
}

#[tokio::test]
async fn each_field_of_the_event_reaches_instant_connect() {
    let rig = Rig::new().await;
    let worker = rig.start(&[("devices.allowed", "salon-*@example.rooms.webex.com")]).await;
    let mut guests = rig.guest_links().await;
    let from = Timestamp::now().as_second() + 3600;
    let time = |second| Timestamp::from_second(second).unwrap().to_string();
    let event = event_with(
        1,
        &json!({
            "sessionId": "Sala nº 1 / Ana",
            "devices": [format!("sip:{DEVICE}"), DEVICE.to_uppercase(), "salon-4711b@example.rooms.webex.com"],
            "vertical": "gen", "hostLogin": false, "notBefore": time(from), "expiresAt": time(from + 60),
            "correlationId": null, "attributes": null,
        }),
    );
    let properties = with_id("event-1").with_correlation_id("flowsecret-property".into());
    rig.publish_event(properties, &event).await;
    let link = guests.next().await;
    let call = rig.sandbox.calls().remove(0);
    let namespace = Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"instant-connect-worker");
    assert_eq!(call.sub, Uuid::new_v5(&namespace, "Sala nº 1 / Ana".as_bytes()).to_string());
    assert_eq!((call.nbf, call.exp), (Some(from), Some(from + 60)));
    assert_eq!(
        call.devices,
        [DEVICE, "salon-4711b@example.rooms.webex.com"],
        "each device once, without sip:"
    );
    assert_eq!((call.vertical, call.login_url_for_host), (RecordedVertical::Gen, false));
    let body = link.json();
    assert_eq!((&body["notBefore"], &body["expiresAt"]), (&json!(time(from)), &json!(time(from + 60))));
    assert_eq!(body["sessionId"], "Sala nº 1 / Ana");
    assert!(body.get("correlationId").is_none() && body.get("attributes").is_none());
    let correlation_id = link.properties.correlation_id().as_ref().unwrap().as_str().to_owned();
    assert_eq!(
        correlation_id, "flowsecret-property",
        "the property is used if the body names no correlation id"
    );
    worker.stop().await;
}

#[tokio::test]
async fn experts_are_reached_by_person_id_room_id_and_email() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    // `ciscospark://us/PEOPLE/1`, in base64.
    let (person, room) = ("Y2lzY29zcGFyazovL3VzL1BFT1BMRS8x", SPACE);
    let experts = json!([{"personId": person}, {"roomId": room}, {"email": email(1)}]);
    rig.publish_event(with_id("event-1"), &event_with(1, &json!({"experts": experts}))).await;
    rig.until_experts_have(3).await;
    let messages = rig.sandbox.messages();
    assert!(messages.iter().any(|one| one.to_person_id.as_deref() == Some(person)));
    assert!(messages.iter().any(|one| one.room_id == room && one.to_person_email.is_none()));
    assert!(messages.iter().any(|one| one.to_person_email == Some(email(1))));
    worker.stop().await;
}

#[tokio::test]
async fn session_with_several_calls_has_one_meeting_and_distinct_links() {
    let rig = Rig::new().await;
    let worker = rig.start(&[("devices.allowed", DEVICE)]).await;
    let mut hosts = rig.amqp.tap(&rig.name("links"), &["host.webex"]).await;
    let mut guests = rig.guest_links().await;
    let people: Vec<_> = (0..30).map(|n| json!({"channel": "sms", "address": number(n)})).collect();
    let experts = json!([{"email": email(1)}, {"email": email(2)}]);
    let event = event_with(1, &json!({"guests": people, "experts": experts, "devices": [DEVICE]}));
    rig.publish_event(with_id("event-1"), &event).await;
    let (guests, hosts) = (guests.take(30).await, hosts.take(2).await);

    let calls = rig.sandbox.calls();
    assert_eq!(calls.len(), 2);
    assert!(calls.iter().all(|call| call.sub == "visit-1" && call.hosts + call.guests <= 25));
    assert_eq!(
        calls.iter().map(|call| (call.hosts, call.guests)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1)),
        (2, 30)
    );
    assert_eq!((calls[0].devices.as_slice(), calls[1].devices.len()), ([DEVICE.to_owned()].as_slice(), 0));
    let by_number: BTreeMap<_, _> =
        guests.iter().map(|link| (link.json()["to"].to_string(), link.json()["url"].to_string())).collect();
    assert_eq!(by_number.len(), 30, "each guest has a link");
    let urls: HashSet<_> = guests.iter().chain(&hosts).map(|link| link.json()["url"].to_string()).collect();
    assert_eq!(urls.len(), 32, "no two people share a link");
    let known = rig.sandbox.links();
    let role = |link: &Received| known[link.json()["short"].as_str().unwrap()].role;
    assert!(guests.iter().all(|link| role(link) == RecordedRole::Guest));
    assert!(hosts.iter().all(|link| role(link) == RecordedRole::Host));
    worker.stop().await;
}

#[tokio::test]
async fn unknown_headers_of_other_types_are_ignored() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let mut table = headers(&[("traceparent", "no trace context"), ("mine", "flowsecret")]);
    table.insert("number".into(), AMQPValue::LongInt(7));
    table.insert("nothing".into(), AMQPValue::Void);
    table.insert("bytes".into(), AMQPValue::LongString(vec![0xff_u8, 0xfe].into()));
    rig.publish_event(with_id("event-1").with_headers(table), &testkit::event(1)).await;
    let link = rig.guest_links().await.next().await;
    assert_eq!(link.header("traceparent").split('-').next_back(), Some("01"), "a new trace starts here");
    worker.stop().await;
}

#[tokio::test]
async fn absurd_not_before_header_does_not_delay_a_message_forever() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let held = headers(&[("x-retry-reason", "unavailable"), ("x-not-before", "9999-01-01T00:00:00Z")]);
    rig.publish_event(with_id("event-1").with_headers(held), &testkit::event(1)).await;
    rig.until_experts_have(1).await;
    worker.stop().await;
}
