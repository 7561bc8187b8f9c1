//! A full queue refuses messages: they stay with the worker and are published later.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::process::ExitStatusExt,
};

use lapin::types::AMQPValue;

use testkit::{Rig, admin::Admin, amqp::Received};

/// The hosts queue is declared in advance and holds one message.
const SETTINGS: [(&str, &str); 4] = [
    ("hosts.delivery", "amqp"),
    ("topology.declare", "off"),
    ("shutdown.grace", "200ms"),
    ("admin.listen", "127.0.0.1:0"),
];

/// A rig with a full hosts queue, and the number of messages that fill it.
async fn rig() -> (Rig, usize) {
    let rig = Rig::new().await;
    let declared = rig.command(&["topology", "--declare"], &SETTINGS[..1]).await;
    assert_eq!(declared.status, Some(0), "{declared:?}");
    let hosts = rig.name("hosts");
    rig.amqp.delete_queues([hosts.as_str()]).await;
    let limited = [
        ("x-queue-type", AMQPValue::LongString("quorum".into())),
        ("x-overflow", AMQPValue::LongString("reject-publish".into())),
        ("x-max-length", AMQPValue::LongInt(1)),
    ];
    rig.amqp.declare(&hosts, &limited).await;
    rig.amqp.bind(&hosts, &rig.name("links"), "host.webex").await;
    let fillers = rig.amqp.fill(&hosts).await;
    (rig, fillers)
}

/// The worker stops while the hosts queue is full. The next worker must not publish the guest links again.
#[tokio::test]
async fn guest_links_confirmed_before_shutdown_are_not_published_again() {
    const EVENTS: usize = 2;
    let (rig, fillers) = rig().await;
    let mut guests = rig.guest_links().await;
    rig.publish_many(0..EVENTS).await;
    let worker = rig.start(&SETTINGS).await;
    let admin = Admin::of(&worker).await;
    let links = guests.take(EVENTS).await;
    // Two ledger writes per event: its links, and the published ones.
    let notes = (2 * EVENTS).to_string();
    admin.until("ledger_write_duration_seconds_count", &notes).await;
    worker.stop().await;

    let worker = rig.start(&SETTINGS).await;
    let mut taken = rig.amqp.consume(&rig.name("hosts")).await;
    taken.take(fillers + EVENTS).await;
    worker.output.until("\"outcome\":\"done\"", EVENTS).await;
    rig.publish(EVENTS).await;
    let last = guests.next().await;
    let ids: BTreeSet<_> = links.iter().chain([&last]).map(Received::id).collect();
    assert_eq!(ids.len(), EVENTS + 1, "each guest has one link");
    worker.stop().await;
}

/// The hosts queue is full and has no consumer. Events are held for `amqp.delivery_timeout` and requeued; guests get
/// their links meanwhile.
#[tokio::test]
async fn full_hosts_queue_keeps_events_and_guests_get_their_links() {
    const UNFULFILLED: &str = "requeued: publishing or settling failed";
    let (rig, fillers) = rig().await;
    let settings = [
        &SETTINGS[..],
        &[("amqp.delivery_timeout", "3s"), ("instant_connect.timeout", "1s"), ("hosts.timeout", "1s")],
    ]
    .concat();
    let hosts = rig.name("hosts");
    rig.publish_many(1..=2).await;
    // This includes a worker that dies after it requeued an event.
    #[cfg(debug_assertions)]
    {
        let status = rig.launch_with_fault(&settings, "sessions.returned:1:KILL").ended().await;
        assert_eq!(status.signal(), Some(9), "{status}");
    }
    let worker = rig.start(&settings).await;
    worker.output.until(UNFULFILLED, 4).await;
    assert!(worker.output.logged("dead-lettered").is_empty());
    worker.stop().await;
    let worker = rig.start(&settings).await;
    let mut taken = rig.amqp.consume(&hosts).await;
    taken.take(fillers).await;
    // An event whose links were published just before the kill is published again.
    let mut ids: BTreeSet<String> = BTreeSet::new();
    while ids.len() < 2 {
        ids.insert(taken.next().await.id());
    }
    rig.publish(3).await;
    let mut links: BTreeMap<String, Vec<Received>> = BTreeMap::new();
    let mut guests = rig.guest_links().await;
    while links.len() < 3 {
        let link = guests.next().await;
        links.entry(link.id()).or_default().push(link);
    }
    for copies in links.values() {
        assert!(copies.iter().all(|link| link.body == copies[0].body), "repeats carry the same link");
    }
    assert_eq!(rig.sandbox.counts().calls, 3, "links are made once");
    worker.stop().await;
    rig.amqp.until_unused_and_empty(&rig.name("sessions")).await;
    assert_eq!(rig.amqp.depth(&rig.name("sessions.dead")).await.unwrap().0, 0);
}
