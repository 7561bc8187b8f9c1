//! Flows that send the messages: each link wakes one by a custom event.

use instant_connect_sandbox::{Endpoint, Fault, Frequency, KnownEvent, RecordedSend, SentContent};
use serde_json::{Map, Value, json};

use super::{SendRig, refusal};
use testkit::{
    amqp::with_id,
    events::{OPAQUE, event_with, number},
    program::Program,
    rig::{BASE_URL, CONNECT_KEY},
};

const EVENT: &str = "EVTVIDEO1";

/// The settings of a worker that wakes flows, without those of senders.
fn settings<'a>(url: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let settings = [
        ("guests.delivery", "webex-connect"),
        ("webex_connect.mode", "event"),
        ("webex_connect.url", url),
        ("webex_connect.key", CONNECT_KEY),
        ("webex_connect.event_id", EVENT),
        ("webex_connect.event_attributes", "resumeKey"),
        ("send.allowed_prefixes", "+346"),
        ("retry.delays", "100ms,500ms"),
        ("retry.initial", "100ms"),
    ];
    settings.iter().chain(more).copied().collect()
}

async fn start(send: &SendRig, more: &[(&str, &str)]) -> Program {
    let url = send.connect.url();
    send.rig.start(&settings(url.as_str(), more)).await
}

/// The parameters of an event.
fn parameters(sent: &RecordedSend) -> Map<String, Value> {
    let SentContent::Event { event, parameters, known } = sent.content.clone() else {
        panic!("{:?}", std::mem::discriminant(&sent.content))
    };
    assert_eq!((event.as_str(), known, sent.endpoint), (EVENT, true, Endpoint::Event));
    parameters
}

#[tokio::test]
async fn each_link_wakes_one_flow_once_with_the_configured_attributes() {
    let send = SendRig::new().await;
    let mandatory = ["url", "resumeKey"].map(str::to_owned).to_vec();
    send.connect.change_settings(|settings| {
        settings.events = vec![KnownEvent { id: EVENT.to_owned(), mandatory }];
    });
    let worker = start(&send, &[]).await;
    let resume = format!("{OPAQUE}-chat-99");
    let event = event_with(
        1,
        &json!({
            "guests": [
                {"channel": "sms", "address": number(1), "name": "Guadalupe", "locale": "es"},
                {"channel": "whatsapp", "address": number(2)},
            ],
            "attributes": {"resumeKey": resume, "evtid": OPAQUE, "url": "https://evil.example/"},
        }),
    );
    for _ in 0..2 {
        send.rig.publish_event(with_id("event-1"), &event).await;
        send.until_sent(2).await;
    }
    send.rig.publish(2).await;
    send.until_sent(3).await;
    worker.stop().await;
    let sends = send.connect.sends();
    assert_eq!(sends.len(), 3, "the repeated event woke nobody");
    for (channel, name) in [("sms", Some("Guadalupe")), ("whatsapp", None)] {
        let event = sends.iter().find(|event| parameters(event)["channel"] == channel).unwrap();
        let id = uuid::Uuid::parse_str(event.correlation_id.as_ref().unwrap()).unwrap();
        assert_eq!(id.get_version_num(), 5, "the link's message_id");
        assert!(event.expiry.is_some(), "the session's end");
        let mut parameters = parameters(event);
        let url = parameters.remove("url").unwrap();
        let short = parameters.remove("short").unwrap();
        assert_eq!(url, format!("{BASE_URL}{}", short.as_str().unwrap()));
        let mut expected = json!({
            "baseUrl": BASE_URL, "channel": channel, "sessionId": "visit-1", "resumeKey": resume,
            "correlationId": format!("{OPAQUE}-flow-1"),
        });
        if let Some(name) = name {
            expected["name"] = json!(name);
        }
        assert_eq!(Value::Object(parameters), expected, "no number, no other attribute");
    }
    assert_eq!((send.connect.counts().sms, send.connect.counts().whatsapp), (0, 0));
    send.rig.assert_queues_are_empty(&send.rig.amqp).await;
}

#[tokio::test]
async fn answers_of_the_event_api_have_the_outcomes_of_messages() {
    let send = SendRig::new().await;
    let worker = start(&send, &[("webex_connect.rate_limit_wait", "1s")]).await;
    let mut events = 0;
    // 7005 is an internal error here; for messages it means that the message has expired.
    let passing =
        [refusal(7005), refusal(7020), refusal(7006), Fault::Status { code: 429, retry_after: None }];
    for (n, fault) in passing.into_iter().enumerate() {
        send.fault(Endpoint::Event, fault, Frequency::Times(1));
        send.rig.publish(n).await;
        events += 1;
        send.until_sent(events).await;
        send.connect.clear_faults();
    }
    for (n, fault) in [Fault::CutAfterEffect, Fault::Garbage].into_iter().enumerate() {
        send.fault(Endpoint::Event, fault, Frequency::Times(1));
        send.rig.publish(10 + n).await;
        events += 2;
        send.until_sent(events).await;
        send.connect.clear_faults();
    }
    assert_eq!(worker.output.count_lines("sending a guest link again"), 2);
    let mut dead = send.rig.dead_letters("guests.sms").await;
    for (n, (code, class)) in
        [(7025, "rejected"), (7019, "expired"), (7004, "rejected")].into_iter().enumerate()
    {
        send.fault(Endpoint::Event, refusal(code), Frequency::Times(1));
        send.rig.publish(20 + n).await;
        let letter = dead.next().await;
        assert_eq!(letter.header("x-dead-class"), class, "{code}");
        assert!(letter.header("x-dead-reason").contains(&code.to_string()));
        send.connect.clear_faults();
    }
    worker.stop().await;
    assert_eq!(send.connect.counts().sends, events);
}

#[tokio::test]
async fn check_tries_the_key_at_the_event_api_and_wakes_no_flow() {
    let send = SendRig::new().await;
    let url = send.connect.url();
    for (key, passes) in [(CONNECT_KEY, true), ("another-key", false)] {
        let settings = settings(url.as_str(), &[("webex_connect.key", key)]);
        let check = send.rig.command(&["check", "--connect", "--json"], &settings).await.json();
        let findings = check["findings"].as_array().unwrap();
        let of = |what: &str| {
            findings.iter().filter(|finding| finding["what"].as_str().unwrap().contains(what)).count()
        };
        let what = "credential at Webex Connect (custom events)";
        let finding = findings.iter().find(|finding| finding["what"] == what).unwrap();
        assert_eq!(finding["result"] == "pass", passes, "{finding}");
        assert_eq!((of("key at Webex Connect"), of("text link")), (0, 0), "no sender and no text is checked");
    }
    assert_eq!((send.connect.counts().sends, send.connect.counts().sms), (0, 0));
}

#[tokio::test]
async fn worker_without_an_event_or_with_a_reserved_attribute_does_not_start() {
    let send = SendRig::new().await;
    let url = send.connect.url();
    for (key, value, expected) in [
        ("webex_connect.event_id", "", "expected the id of a custom event"),
        ("webex_connect.event_attributes", "resumeKey,url", "a parameter already"),
        ("webex_connect.event_attributes", "a,a", "expected different names"),
        ("webex_connect.mode", "flows", "expected messages or event"),
    ] {
        let run = send.rig.command(&["run"], &settings(url.as_str(), &[(key, value)])).await;
        assert_eq!(run.status, Some(2), "{}", run.stderr);
        assert!(run.stderr.contains(expected), "{}", run.stderr);
    }
}
