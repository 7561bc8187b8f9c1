//! Memory is bounded by what work may become, not by the number of events.

use serde_json::json;

use crate::support::{
    Rig,
    amqp::with_id,
    events::{event_with, number},
};

/// As many events at once as the defaults allow, each of 57 KB with 150 people, whose links repeat 7.5 MB of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_events_at_once_stay_within_the_bytes_in_progress() {
    const EVENTS: usize = 32;
    const PEOPLE: usize = 149;
    let rig = Rig::new().await;
    // Seven calls each take as long as it takes all events to be in progress.
    rig.sandbox.fault("joseencrypt:delay=300ms".parse().unwrap());
    let worker = rig.start(&[("hosts.delivery", "amqp")]).await;
    let guests: Vec<_> = (0..PEOPLE).map(|n| json!({"channel": "sms", "address": number(n)})).collect();
    let fields = json!({"guests": guests, "correlationId": format!("flowsecret-{}", "c".repeat(50_000))});
    let events = (0..EVENTS)
        .map(|n| (with_id(&format!("event-{n}")), event_with(n, &fields).to_string().into_bytes()));
    rig.amqp.publish_all(&rig.name("sessions"), "session.start", events).await;
    rig.guest_links().await.take(EVENTS * PEOPLE).await;
    let peak = worker.resident_kib_max().unwrap() / 1024;
    worker.stop().await;
    eprintln!("peak of the resident memory: {peak} MiB");
    assert!(peak < 320, "{peak} MiB");
    assert_eq!(rig.amqp.depth(&rig.name("sessions.dead")).await.unwrap().0, 0);
}
