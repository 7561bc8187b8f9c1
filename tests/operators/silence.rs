//! A stalled consumer, which stays registered but receives nothing, is detected and reconnected.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use testkit::{
    Rig,
    admin::Admin,
    frames::{self, Frame},
};

/// Methods of AMQP 0-9-1.
const CONSUME_OK: [u8; 4] = [0, 60, 0, 21];
const DELIVER: [u8; 4] = [0, 60, 0, 60];

#[tokio::test]
async fn stalled_consumer_is_reconnected_and_processes_the_backlog() {
    const EVENTS: usize = 10;
    let rig = Rig::new().await;
    let deaf = Arc::new(AtomicBool::new(true));
    let is_deaf = Arc::clone(&deaf);
    // Connections made while `deaf` get everything except deliveries.
    let url = frames::relay(rig.url(), move || {
        let (deaf, mut consuming) = (is_deaf.load(Ordering::Relaxed), HashSet::new());
        move |frame: Frame| {
            if frame.is(CONSUME_OK) {
                consuming.insert(frame.channel());
            }
            let is_delivery = frame.is(DELIVER) || frame.is_content();
            let drops = deaf && consuming.contains(&frame.channel()) && is_delivery;
            if drops { Vec::new() } else { vec![frame] }
        }
    })
    .await;
    let settings = [("amqp.url", url.as_str()), ("amqp.watch_interval", "200ms"), ("amqp.prefetch", "4")];
    let worker = rig.start(&settings).await;
    let admin = Admin::of(&worker).await;
    for stage in ["link", "host"] {
        admin.until(&format!("consuming{{stage=\"{stage}\"}}"), "1").await;
    }
    // New connections get deliveries.
    deaf.store(false, Ordering::Relaxed);
    rig.publish_many(0..EVENTS).await;
    rig.guest_links().await.take(EVENTS).await;
    rig.until_experts_have(EVENTS as u64).await;
    for stage in ["link", "host"] {
        let name = format!("silent_consumers_total{{stage=\"{stage}\"}}");
        assert_ne!(admin.series().await[&name], "0", "{stage}");
    }
    admin.until("queue_messages{queue=\"work\",stage=\"link\"}", "0").await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
}
