//! What comes twice has one result.

use instant_connect_worker::sandbox::Endpoint;
use serde_json::json;

use crate::support::{
    Rig,
    amqp::with_id,
    event,
    events::{event_with, number},
    program::Program,
};

const LINK_DONE: &str = "\"stage\":\"link\",\"outcome\":\"done\"";

/// The event is published three times at once. The guest has one link, the expert one message.
async fn the_same_event_has_one_result(rig: &Rig, worker: &Program) {
    for _ in 0..3 {
        rig.publish_event(with_id("event-1"), &event(1)).await;
    }
    worker.output.until(LINK_DONE, 3).await;
    rig.until_experts_have(1).await;
    assert_eq!(rig.amqp.depth(&rig.name("guests")).await.unwrap().0, 1, "one message for the guest");
}

#[tokio::test]
async fn the_same_event_gives_one_set_of_links_and_one_host_message() {
    for kind in ["file", "memory"] {
        let rig = Rig::new().await;
        let worker = rig.start(&[("ledger.kind", kind)]).await;
        the_same_event_has_one_result(&rig, &worker).await;
        worker.output.until("\"stage\":\"host\",\"outcome\":\"done\"", 1).await;
        worker.stop().await;
        rig.assert_all_is_done(&rig.amqp).await;
        let counts = rig.sandbox.counts();
        assert_eq!((counts.calls, counts.messages), (1, 1), "{kind}");
    }
}

#[tokio::test]
async fn a_new_worker_knows_what_the_killed_one_did() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    rig.publish_event(with_id("event-1"), &event(1)).await;
    rig.until_experts_have(1).await;
    worker.output.until("host link sent to expert", 1).await;
    // The messages are out; what the ledger says of them is on disk once their deliveries are settled.
    worker.output.until(LINK_DONE, 1).await;
    worker.output.until("\"stage\":\"host\",\"outcome\":\"done\"", 1).await;
    worker.kill();
    let worker = rig.start(&[]).await;
    rig.publish_event(with_id("event-1"), &event(1)).await;
    worker.output.until(LINK_DONE, 1).await;
    worker.stop().await;
    assert_eq!(rig.amqp.depth(&rig.name("guests")).await.unwrap().0, 1, "nothing is published again");
    rig.assert_all_is_done(&rig.amqp).await;
    let counts = rig.sandbox.counts();
    assert_eq!((counts.calls, counts.messages), (1, 1));
}

/// Two senders with a queue each; the one for `WhatsApp` is not there yet.
#[tokio::test]
async fn a_link_that_arrived_is_not_published_again_for_one_that_did_not() {
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

/// A flow's library may write its event again for each try.
#[tokio::test]
async fn event_that_is_written_otherwise_is_the_same_event() {
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
    rig.assert_all_is_done(&rig.amqp).await;
    assert_eq!(rig.amqp.depth(&rig.name("guests")).await.unwrap().0, 1, "one message for the guest");
    assert_eq!(rig.sandbox.counts().calls, 1);
}

/// Two flows that both count from 1, and a sender that says JSON of its structured CloudEvents.
#[tokio::test]
async fn cloud_events_of_two_sources_with_one_id_are_both_served() {
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
    rig.assert_all_is_done(&rig.amqp).await;
}

#[tokio::test]
async fn the_same_id_with_other_content_is_refused() {
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
async fn a_message_whose_answer_was_lost_is_looked_for_and_not_sent_again() {
    let rig = Rig::new().await;
    let worker = rig.start(&[("hosts.timeout", "500ms"), ("retry.delays", "10ms,1s")]).await;
    // The message is posted, and its answer comes too late.
    rig.sandbox.fault("messages:delay=2s,times=1".parse().unwrap());
    rig.publish(1).await;
    worker.output.until("no response within the time limit", 1).await;
    worker.output.until("\"stage\":\"host\",\"outcome\":\"done\"", 1).await;
    rig.until_experts_have(1).await;
    worker.stop().await;
    rig.assert_all_is_done(&rig.amqp).await;
    assert_eq!(rig.sandbox.counts().messages, 1);
}

/// How the requests for messages came, after each of them but the last had met a fault.
async fn methods_past(faults: &[&str]) -> String {
    let rig = Rig::new().await;
    let worker = rig.start(&[("retry.delays", "10ms,1s"), ("retry.initial", "10ms")]).await;
    for fault in faults {
        rig.sandbox.fault(format!("messages:{fault},times=1").parse().unwrap());
    }
    rig.publish(1).await;
    worker.output.until("\"stage\":\"host\",\"outcome\":\"done\"", 1).await;
    worker.stop().await;
    rig.assert_all_is_done(&rig.amqp).await;
    assert_eq!(rig.sandbox.counts().messages, 1);
    let requests = rig.sandbox.arrivals(Endpoint::Messages);
    requests.iter().map(|request| request.method.as_str()).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_token_that_may_not_read_messages_ends_no_experts_link() {
    for refusal in ["status=403", "status=400", "status=404"] {
        assert_eq!(methods_past(&["status=504", refusal]).await, "POST GET POST", "{refusal}");
    }
}

/// Webex may send the first attempt's message at last after the second one looked for it.
#[tokio::test]
async fn an_attempt_that_failed_for_sure_leaves_in_doubt_what_one_before_it_did() {
    // The second one meets a slow look and a refusal that passes.
    let faults = ["status=504", "delay=1ms", "status=423"];
    assert_eq!(methods_past(&faults).await, "POST GET POST GET POST");
    assert_eq!(methods_past(&["status=423"]).await, "POST POST", "nothing is in doubt");
}

#[tokio::test]
async fn a_second_worker_on_the_same_ledger_file_ends_and_says_why() {
    let rig = Rig::new().await;
    let _first = rig.start(&[]).await;
    let second = rig.command(&["run"], &[]).await;
    assert_eq!(second.status, Some(1), "{second:?}");
    assert!(second.stderr.contains("in use by another process"), "{second:?}");
}
