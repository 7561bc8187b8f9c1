//! Failures of Webex Connect: which are repeated, which wait, and which are final.

use instant_connect_sandbox::{Endpoint, Fault, Frequency};
use serde_json::json;

use super::{SendRig, refusal, settings};
use testkit::{
    amqp::with_id,
    events::{event_with, number},
    poll,
    rig::CONNECT_KEY,
};

/// Failures in which nothing was sent.
fn passing() -> Vec<Fault> {
    vec![
        refusal(7006),
        refusal(7020),
        refusal(7999),
        Fault::Status { code: 429, retry_after: Some("1".to_owned()) },
        Fault::Status { code: 503, retry_after: Some("1".to_owned()) },
        Fault::Page { code: 503 },
        Fault::Page { code: 404 },
        Fault::Page { code: 403 },
    ]
}

#[tokio::test]
async fn failure_that_passes_is_repeated_and_sends_one_message() {
    let send = SendRig::new().await;
    let worker = send.start(&[("webex_connect.rate_limit_wait", "1s")]).await;
    for (n, fault) in passing().into_iter().enumerate() {
        let endpoint = if n % 2 == 0 { Endpoint::Sms } else { Endpoint::WhatsApp };
        send.fault(endpoint, fault, Frequency::Times(1));
        let channel = if endpoint == Endpoint::Sms { "sms" } else { "whatsapp" };
        let event = event_with(n, &json!({"guests": [{"channel": channel, "address": number(n)}]}));
        send.rig.publish_event(with_id(&format!("event-{n}")), &event).await;
        send.until_sent(n as u64 + 1).await;
        send.connect.clear_faults();
    }
    worker.stop().await;
    assert!(send.connect.send_counts().values().all(|times| *times == 1));
    // Each fault fired.
    assert_eq!(send.connect.arrivals(Endpoint::Any).len(), 2 * passing().len());
    send.rig.assert_queues_are_empty(&send.rig.amqp).await;
}

/// More refusals than times that a message may be sent.
#[tokio::test]
async fn unavailable_api_costs_no_message_however_often_it_answers_so() {
    let send = SendRig::new().await;
    let worker = send.start(&[]).await;
    let unavailable = Fault::Status { code: 503, retry_after: Some("1".to_owned()) };
    send.fault(Endpoint::Sms, unavailable, Frequency::Times(4));
    send.rig.publish(1).await;
    send.until_sent(1).await;
    worker.stop().await;
    assert_eq!((send.connect.counts().sms, send.connect.counts().sends), (5, 1));
    send.rig.assert_queues_are_empty(&send.rig.amqp).await;
}

#[tokio::test]
async fn refused_message_becomes_a_dead_letter_with_the_code() {
    let send = SendRig::new().await;
    let worker = send.start(&[]).await;
    let mut dead = send.rig.dead_letters("guests.whatsapp").await;
    for (n, (code, class)) in
        [(7865, "rejected"), (7804, "rejected"), (7705, "expired")].into_iter().enumerate()
    {
        send.fault(Endpoint::WhatsApp, refusal(code), Frequency::Times(1));
        let event = event_with(n, &json!({"guests": [{"channel": "whatsapp", "address": number(n)}]}));
        send.rig.publish_event(with_id(&format!("event-{n}")), &event).await;
        let letter = dead.next().await;
        assert_eq!(letter.header("x-dead-class"), class);
        assert!(letter.header("x-dead-reason").contains(&code.to_string()));
        send.connect.clear_faults();
    }
    worker.stop().await;
    assert_eq!(send.connect.counts().sends, 0);
}

#[tokio::test]
async fn refused_key_waits_for_a_new_one_and_the_other_messages_wait_too() {
    let send = SendRig::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "key-that-was-withdrawn").unwrap();
    let settings = [("webex_connect.key", ""), ("webex_connect.key_file", file.to_str().unwrap())];
    let worker = send.start(&settings).await;
    send.rig.publish_many(1..=3).await;
    worker.output.until("webex_connect.key", 1).await;
    send.rig.publish_many(4..=23).await;
    let queue = send.rig.name("guests.sms");
    poll("links that wait", async || (send.rig.amqp.depth(&queue).await?.0 >= 20).then_some(())).await;
    assert_eq!(send.connect.counts().sends, 0);
    std::fs::write(&file, CONNECT_KEY).unwrap();
    send.until_sent(23).await;
    worker.stop().await;
    // Only the first messages and some probes were tried with the withdrawn key.
    assert!(send.connect.arrivals(Endpoint::Any).len() < 23 + 20);
    assert!(send.connect.send_counts().values().all(|times| *times == 1));
}

/// Failures in which the message may have been sent, and was.
fn unknown() -> Vec<Fault> {
    vec![Fault::CutAfterEffect, Fault::CutBody, Fault::Garbage, Fault::Empty]
}

#[tokio::test]
async fn message_that_may_have_been_sent_is_sent_again_by_default() {
    let send = SendRig::new().await;
    let worker = send.start(&[]).await;
    for (n, fault) in unknown().into_iter().enumerate() {
        send.fault(Endpoint::Sms, fault, Frequency::Times(1));
        send.rig.publish(n).await;
        send.until_sent(2 * (n as u64 + 1)).await;
        send.connect.clear_faults();
    }
    assert_eq!(worker.output.count_lines("sending a guest link again"), unknown().len());
    worker.stop().await;
    assert!(send.connect.send_counts().values().all(|times| *times == 2));
}

#[tokio::test]
async fn message_is_sent_three_times_at_most_until_somebody_replays_it() {
    let send = SendRig::new().await;
    let worker = send.start(&[]).await;
    let queue = send.rig.name("guests.sms.dead");
    send.fault(Endpoint::Sms, Fault::CutAfterEffect, Frequency::Always);
    send.rig.publish(1).await;
    poll("a dead letter", async || (send.rig.amqp.depth(&queue).await?.0 == 1).then_some(())).await;
    assert_eq!(send.connect.counts().sends, 3);
    send.connect.clear_faults();
    let url = send.connect.url();
    let settings = settings(url.as_str(), &[]);
    let replayed = send.rig.command(&["dead", "replay", "--queue", "guests.sms", "--yes"], &settings).await;
    assert_eq!(replayed.status, Some(0), "{}", replayed.stderr);
    send.until_sent(4).await;
    worker.stop().await;
    send.rig.assert_queues_are_empty(&send.rig.amqp).await;
}

#[tokio::test]
async fn message_that_may_have_been_sent_becomes_a_dead_letter_if_set() {
    let send = SendRig::new().await;
    // No breaker delays the last of these messages.
    let worker = send.start(&[("send.on_unknown", "dead"), ("breaker.failures", "1000")]).await;
    let mut dead = send.rig.dead_letters("guests.sms").await;
    for (n, fault) in unknown().into_iter().enumerate() {
        send.fault(Endpoint::Sms, fault, Frequency::Times(1));
        send.rig.publish(n).await;
        let letter = dead.next().await;
        assert_eq!(letter.header("x-dead-class"), "exhausted");
        assert!(letter.header("x-dead-reason").contains("may have been sent"));
        send.connect.clear_faults();
    }
    worker.stop().await;
    assert!(send.connect.send_counts().values().all(|times| *times == 1));
}

#[tokio::test]
async fn killed_worker_loses_no_message_and_repeats_only_one_that_may_have_been_sent() {
    for (step, times) in
        [("read", 1), ("claimed", 1), ("counted", 1), ("noted", 1), ("answered", 2), ("recorded", 1)]
    {
        let send = SendRig::new().await;
        let url = send.connect.url();
        let settings = settings(url.as_str(), &[]);
        let worker = send.rig.launch_with_fault(&settings, &format!("sms.{step}:1:KILL"));
        worker.output.until("connected to broker; consuming", 1).await;
        send.rig.publish(1).await;
        worker.ended().await;
        let worker = send.start(&[]).await;
        send.until_sent(times).await;
        // A second event shows that the first one is done.
        send.rig.publish(2).await;
        send.until_sent(times + 1).await;
        poll("no work is left", async || {
            let depth = send.rig.amqp.depth(&send.rig.name("guests.sms")).await;
            (depth.is_some_and(|(ready, _)| ready == 0)).then_some(())
        })
        .await;
        worker.stop().await;
        assert_eq!(send.connect.counts().sends, times + 1, "{step}");
        send.rig.assert_queues_are_empty(&send.rig.amqp).await;
    }
}

#[tokio::test]
async fn outage_of_one_channel_does_not_stop_the_other() {
    let send = SendRig::new().await;
    let worker = send.start(&[]).await;
    send.fault(Endpoint::WhatsApp, Fault::Page { code: 404 }, Frequency::Always);
    for n in 1..=20 {
        let event = event_with(
            n,
            &json!({"guests": [
                {"channel": "sms", "address": number(n)}, {"channel": "whatsapp", "address": number(100 + n)},
            ]}),
        );
        send.rig.publish_event(with_id(&format!("event-{n}")), &event).await;
    }
    send.until_sent(20).await;
    assert!(send.connect.sends().iter().all(|sent| sent.endpoint == Endpoint::Sms));
    send.connect.clear_faults();
    send.until_sent(40).await;
    worker.stop().await;
    assert!(send.connect.send_counts().values().all(|times| *times == 1));
}
