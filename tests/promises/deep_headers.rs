//! Headers as deep or as large as one frame can carry stop no worker, no tool, and no other event.

use testkit::{Rig, amqp::Amqp, event, poll, program::Finished, python::python};

/// The deepest nesting that one frame of 128 KiB can carry, minus some room for the broker's headers.
const DEEPEST: usize = 26_000;

async fn publish(rig: &Rig, n: usize, kind: &str, number: usize) {
    let (exchange, id, body) = (rig.name("sessions"), format!("event-{n}"), event(n).to_string());
    let number = number.to_string();
    python("deep.py", &[rig.url(), &exchange, "session.start", &id, &body, kind, &number]).await;
}

async fn until_ready(amqp: &Amqp, queue: &str, letters: u32) {
    let what = format!("{letters} messages in {queue}");
    poll(&what, async || (amqp.depth(queue).await?.0 == letters).then_some(())).await;
}

#[tokio::test]
async fn event_with_the_deepest_headers_is_processed_like_others() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    rig.publish(1).await;
    publish(&rig, 2, "array", DEEPEST).await;
    publish(&rig, 3, "array", 300).await;
    rig.publish(4).await;
    rig.guest_links().await.take(4).await;
    rig.until_experts_have(4).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
}

#[tokio::test]
async fn copy_of_event_drops_deep_headers_and_marks_it() {
    let rig = Rig::new().await;
    let quick = [("retry.initial", "10ms"), ("retry.max", "50ms"), ("retry.delays", "10ms,50ms")];
    let worker = rig.start(&quick).await;
    for fault in ["joseencrypt:status=503,times=1", "joseencrypt:status=400,times=1"] {
        rig.sandbox.fault(fault.parse().unwrap());
    }
    publish(&rig, 1, "array", DEEPEST).await;
    let letter = rig.dead_letters("sessions").await.next().await;
    assert_eq!((letter.header("x-dead-class"), letter.id()), ("rejected".into(), "event-1".into()));
    assert!(!letter.headers().contains_key("deep"));
    assert_eq!(letter.headers()["x-headers-dropped"], lapin::types::AMQPValue::LongLongInt(1));
    worker.stop().await;
}

#[tokio::test]
async fn dead_command_handles_the_deepest_headers() {
    let rig = Rig::new().await;
    assert_eq!(rig.command(&["topology", "--declare"], &[]).await.status, Some(0));
    publish(&rig, 1, "array", DEEPEST).await;
    // Python rejects the message, because the Rust client's stack is too small for these headers.
    let (work, dead) = (rig.name("sessions"), rig.name("sessions.dead"));
    python("reject.py", &[rig.url(), &work]).await;
    until_ready(&rig.amqp, &dead, 1).await;
    let tool = async |arguments: &[&str]| -> Finished {
        let finished = rig.command(&[&["dead"], arguments].concat(), &[]).await;
        assert_eq!(finished.status, Some(0), "{arguments:?}: {finished:?}");
        finished
    };
    let list = tool(&["list", "--json"]).await;
    assert_eq!(list.json()["queues"][0]["letters"], 1, "{list:?}");
    tool(&["show", "event-1"]).await;
    tool(&["replay", "--yes", "--event", "event-1"]).await;
    until_ready(&rig.amqp, &work, 1).await;
    let worker = rig.start(&[]).await;
    assert_eq!(rig.guest_links().await.next().await.json()["eventId"], "event-1");
    rig.until_experts_have(1).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
}

/// A header that makes the header frame almost as large as the limit.
const LARGEST: usize = 131_020;

#[tokio::test]
async fn header_frame_too_large_after_redelivery_does_not_block_others() {
    let rig = Rig::new().await;
    assert_eq!(rig.command(&["topology", "--declare"], &[]).await.status, Some(0));
    let (work, dead) = (rig.name("sessions"), rig.name("sessions.dead"));
    publish(&rig, 1, "text", LARGEST).await;
    // The broker's delivery count makes the frame larger than the negotiated limit.
    until_ready(&rig.amqp, &work, 1).await;
    python("reject.py", &[rig.url(), &work, "requeue"]).await;
    rig.publish_many(2..=9).await;
    let worker = rig.start(&[]).await;
    rig.guest_links().await.take(8).await;
    rig.until_experts_have(8).await;
    until_ready(&rig.amqp, &dead, 1).await;
    worker.kill();
}
