//! A repeated event has one result.

use instant_connect_sandbox::Endpoint;
use serde_json::json;

use testkit::{
    Rig,
    amqp::with_id,
    event,
    events::{event_with, number},
    program::Program,
};

const LINK_DONE: &str = "\"stage\":\"link\",\"outcome\":\"done\"";

/// Publishes the event three times at once. The guest gets one link, the expert one message.
async fn assert_repeats_have_one_result(rig: &Rig, worker: &Program) {
    for _ in 0..3 {
        rig.publish_event(with_id("event-1"), &event(1)).await;
    }
    worker.output.until(LINK_DONE, 3).await;
    rig.until_experts_have(1).await;
    assert_eq!(rig.amqp.depth(&rig.name("guests")).await.unwrap().0, 1, "one message for the guest");
}

#[tokio::test]
async fn repeated_event_gives_one_set_of_links_and_one_host_message() {
    for kind in ["file", "memory"] {
        let rig = Rig::new().await;
        let worker = rig.start(&[("ledger.kind", kind)]).await;
        assert_repeats_have_one_result(&rig, &worker).await;
        worker.output.until("\"stage\":\"host\",\"outcome\":\"done\"", 1).await;
        worker.stop().await;
        rig.assert_queues_are_empty(&rig.amqp).await;
        let counts = rig.sandbox.counts();
        assert_eq!((counts.calls, counts.messages), (1, 1), "{kind}");
    }
}

#[tokio::test]
async fn new_worker_does_not_repeat_the_work_of_a_killed_one() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    rig.publish_event(with_id("event-1"), &event(1)).await;
    rig.until_experts_have(1).await;
    worker.output.until("host link sent to expert", 1).await;
    // The messages are out. The ledger entries are on disk once the deliveries are settled.
    worker.output.until(LINK_DONE, 1).await;
    worker.output.until("\"stage\":\"host\",\"outcome\":\"done\"", 1).await;
    worker.kill();
    let worker = rig.start(&[]).await;
    rig.publish_event(with_id("event-1"), &event(1)).await;
    worker.output.until(LINK_DONE, 1).await;
    worker.stop().await;
    assert_eq!(rig.amqp.depth(&rig.name("guests")).await.unwrap().0, 1, "no link is published again");
    rig.assert_queues_are_empty(&rig.amqp).await;
    let counts = rig.sandbox.counts();
    assert_eq!((counts.calls, counts.messages), (1, 1));
}

/// Two senders with a queue each; the queue for `WhatsApp` does not exist at first.
#[tokio::test]
async fn replay_publishes_only_the_links_that_were_unroutable() {
    let rig = Rig::new().await;
    let declared = rig.command(&["topology", "--declare"], &[]).await;
    assert_eq!(declared.status, Some(0), "{declared:?}");
    let (links, guests) = (rig.name("links"), rig.name("guests"));
    rig.amqp.unbind(&guests, &links, "guest.whatsapp").await;
    let worker = rig.start(&[("topology.declare", "off")]).await;
    let people = json!({"guests": [
        {"channel": "sms", "address": number(1)},
        {"channel": "whatsapp", "address": number(2)},
    ]});
    rig.publish_event(with_id("event-1"), &event_with(1, &people)).await;
    worker.output.until("\"class\":\"unroutable\"", 1).await;
    rig.amqp.bind(&guests, &links, "guest.whatsapp").await;
    let replayed = rig.command(&["dead", "replay", "--event", "event-1", "--yes"], &[]).await;
    assert_eq!(replayed.status, Some(0), "{replayed:?}");
    worker.output.until(LINK_DONE, 1).await;
    worker.stop().await;
    assert_eq!(rig.amqp.depth(&guests).await.unwrap().0, 2, "one message for each guest");
    let mut guests = rig.guest_links().await;
    let keys = guests.take(2).await.into_iter().map(|link| link.routing_key).collect::<Vec<_>>();
    assert_eq!(keys, ["guest.sms", "guest.whatsapp"]);
    assert_eq!(rig.sandbox.counts().calls, 1);
}

/// A flow's library may serialize the event differently for each attempt.
#[tokio::test]
async fn event_with_different_json_formatting_is_the_same_event() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let event = event(1);
    let written = [event.to_string(), serde_json::to_string_pretty(&event).unwrap(), {
        let mut with_null = event.clone();
        with_null["vertical"] = serde_json::Value::Null;
        with_null.to_string().replace("visit", r"\u0076isit")
    }];
    for body in &written {
        rig.publish_body(with_id("event-1"), body.as_bytes()).await;
    }
    worker.output.until(LINK_DONE, 3).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    assert_eq!(rig.amqp.depth(&rig.name("guests")).await.unwrap().0, 1, "one message for the guest");
    assert_eq!(rig.sandbox.counts().calls, 1);
}

/// Two flows that both count from 1, and a sender that declares its structured CloudEvents as plain JSON.
#[tokio::test]
async fn cloud_events_of_two_sources_with_one_id_are_both_processed() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    for (n, source) in [(1, "/flows/a"), (2, "/flows/b")] {
        let cloud_event =
            json!({"specversion": "1.0", "id": "1", "type": "start", "source": source, "data": event(n)});
        let properties = lapin::BasicProperties::default().with_content_type("application/json".into());
        rig.publish_event(properties, &cloud_event).await;
    }
    let links = rig.guest_links().await.take(2).await;
    let mut ids: Vec<_> = links.iter().map(|link| link.json()["eventId"].clone()).collect();
    ids.sort_by_key(ToString::to_string);
    assert_eq!(ids, ["/flows/a#1", "/flows/b#1"]);
    rig.until_experts_have(2).await;
    worker.output.until("\"stage\":\"host\",\"outcome\":\"done\"", 2).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
}

#[tokio::test]
async fn same_id_with_different_content_is_refused() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    rig.publish_event(with_id("event-1"), &event(1)).await;
    rig.guest_links().await.next().await;
    rig.publish_event(with_id("event-1"), &event_with(1, &json!({"sessionId": "visit-other"}))).await;
    let letter = rig.dead_letters("sessions").await.next().await;
    assert_eq!(letter.header("x-dead-class"), "invalid");
    assert_eq!(letter.header("x-dead-reason"), "the event id was already used with different content");
    worker.stop().await;
    assert_eq!(rig.sandbox.counts().calls, 1);
}

#[tokio::test]
async fn message_with_a_lost_response_is_found_and_not_sent_again() {
    let rig = Rig::new().await;
    let worker = rig.start(&[("hosts.timeout", "500ms"), ("retry.delays", "10ms,1s")]).await;
    // The message is sent, but its response comes too late.
    rig.sandbox.fault("messages:delay=2s,times=1".parse().unwrap());
    rig.publish(1).await;
    worker.output.until("no response within the time limit", 1).await;
    worker.output.until("\"stage\":\"host\",\"outcome\":\"done\"", 1).await;
    rig.until_experts_have(1).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    assert_eq!(rig.sandbox.counts().messages, 1);
}

/// The methods of the requests for messages, with a fault for all but the last.
async fn methods_past(faults: &[&str]) -> String {
    let rig = Rig::new().await;
    let worker = rig.start(&[("retry.delays", "10ms,1s"), ("retry.initial", "10ms")]).await;
    for fault in faults {
        rig.sandbox.fault(format!("messages:{fault},times=1").parse().unwrap());
    }
    rig.publish(1).await;
    worker.output.until("\"stage\":\"host\",\"outcome\":\"done\"", 1).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    assert_eq!(rig.sandbox.counts().messages, 1);
    let requests = rig.sandbox.arrivals(Endpoint::Messages);
    requests.iter().map(|request| request.method.as_str()).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn token_without_read_permission_still_delivers_host_links() {
    for refusal in ["status=403", "status=400", "status=404"] {
        assert_eq!(methods_past(&["status=504", refusal]).await, "POST GET POST", "{refusal}");
    }
}

/// Webex may still send the first attempt's message after the second attempt listed the messages.
#[tokio::test]
async fn definite_failure_keeps_earlier_unknown_outcome() {
    // The second attempt gets a slow list response and a temporary refusal.
    let faults = ["status=504", "delay=1ms", "status=423"];
    assert_eq!(methods_past(&faults).await, "POST GET POST GET POST");
    assert_eq!(methods_past(&["status=423"]).await, "POST POST", "no list request is needed");
}

#[tokio::test]
async fn second_worker_on_the_same_ledger_file_exits_with_the_reason() {
    let rig = Rig::new().await;
    let _first = rig.start(&[]).await;
    let second = rig.command(&["run"], &[]).await;
    assert_eq!(second.status, Some(1), "{second:?}");
    assert!(second.stderr.contains("in use by another process"), "{second:?}");
}
