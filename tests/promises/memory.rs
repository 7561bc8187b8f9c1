//! Memory is bounded by the limit on bytes in progress, not by the number of events.

use serde_json::json;

use testkit::{
    Rig,
    amqp::with_id,
    events::{event_with, number},
    soon,
};

/// The default number of concurrent events, each of 57 KB with 150 people, whose links repeat 7.5 MB in total.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_concurrent_events_stay_within_the_memory_limit() {
    const EVENTS: usize = 32;
    const PEOPLE: usize = 149;
    let rig = Rig::new().await;
    // Seven calls are slow enough that all events are in progress at the same time.
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
    eprintln!("peak resident memory: {peak} MiB");
    assert!(peak < 320, "{peak} MiB");
    assert_eq!(rig.amqp.depth(&rig.name("sessions.dead")).await.unwrap().0, 0);
}

/// The largest session: the first 25 of a thousand long links contain the addresses of a hundred devices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn largest_session_is_processed_with_long_links() {
    let rig = Rig::new().await;
    let settings = [
        ("hosts.delivery", "amqp"),
        ("devices.allowed", "*@example.rooms.webex.com"),
        ("instant_connect.short_urls", "false"),
        ("instant_connect.salt_length", "128"),
        ("instant_connect.enc", "A256CBC-HS512"),
        ("instant_connect.jws_alg", "HS512"),
    ];
    let worker = rig.start(&settings).await;
    let guests: Vec<_> = (0..999).map(|n| json!({"channel": "sms", "address": number(n)})).collect();
    let device = |n| format!("room-{n:02}-{}@example.rooms.webex.com", "x".repeat(131));
    let fields = json!({
        "sessionId": "s".repeat(128), "guests": guests, "devices": (0..100).map(device).collect::<Vec<_>>(),
    });
    rig.publish_event(with_id("event-1"), &event_with(1, &fields)).await;
    // On a busy machine, all calls together take longer than one wait.
    for count in 1..=40 {
        let called = rig.sandbox.until(|sandbox| sandbox.counts().calls >= count);
        soon(&format!("call {count}"), called).await;
    }
    let links = rig.guest_links().await.take(999).await;
    let longest = links.iter().map(|link| link.body.len()).max().unwrap();
    eprintln!("longest link message: {longest} bytes");
    assert!(longest > 30_000, "{longest} bytes: the first links must contain all devices");
    worker.stop().await;
    let calls = rig.sandbox.calls();
    assert_eq!((calls.len(), calls[0].devices.len(), calls[1].devices.len()), (40, 100, 0));
    assert_eq!(rig.amqp.depth(&rig.name("sessions.dead")).await.unwrap().0, 0);
}
