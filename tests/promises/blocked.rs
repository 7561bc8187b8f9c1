//! A broker that is short of disk blocks publishing. The worker waits on its open connections until publishing is
//! unblocked.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::sleep;

use super::broker_restarts::{all_guest_links, until_every_expert_has_message};
use testkit::{Rig, admin::Admin, soon};

/// The worker's connections as the broker lists them.
async fn connections(rig: &Rig) -> BTreeSet<String> {
    let listing = rig.broker().ctl(&["list_connections", "pid", "client_properties"]).await;
    let ours = listing.lines().filter(|line| line.contains("instant-connect-worker"));
    ours.map(|line| line.split('\t').next().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_disk_alarm_under_load_keeps_connections_and_repeats_nothing() {
    const EVENTS: usize = 500;
    const LIMIT: Duration = Duration::from_secs(5);
    let rig = Rig::private().await;
    // Slow, so that much is left to publish when the disk is full.
    rig.sandbox.fault("joseencrypt:delay=1s".parse().unwrap());
    let limit = format!("{}s", LIMIT.as_secs());
    let settings = [("amqp.timeout", limit.as_str()), ("amqp.concurrency", "16"), ("amqp.prefetch", "32")];
    let worker = rig.start(&settings).await;
    let admin = Admin::of(&worker).await;
    rig.publish_many(0..EVENTS).await;
    soon("the first events", rig.sandbox.until(|sandbox| sandbox.counts().calls >= 16)).await;
    let before = connections(&rig).await;
    assert_eq!(before.len(), 3, "{before:?}");

    rig.broker().disk_is_full(true).await;
    admin.until("publishing_blocked", "1").await;
    let (_, ready) = admin.get("/readyz").await;
    assert!(ready.contains("blocked by the broker"), "{ready}");
    // Nothing must happen during this time, so there is no event to wait for.
    sleep(LIMIT * 2).await;
    assert_eq!(admin.series().await["publishing_blocked"], "1");
    assert_eq!(connections(&rig).await, before);
    let served = rig.sandbox.counts().calls;
    assert!(served < EVENTS as u64, "{served}: no events are left to process");
    rig.sandbox.clear_faults();
    rig.broker().disk_is_full(false).await;

    let links = all_guest_links(&rig.amqp, &rig, EVENTS).await;
    until_every_expert_has_message(&rig, EVENTS).await;
    admin.until("publishing_blocked", "0").await;
    assert_eq!(connections(&rig).await, before);
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    let repeats: Vec<_> = links.iter().filter(|(_, copies)| copies.len() > 1).map(|(id, _)| id).collect();
    assert!(repeats.is_empty(), "{repeats:?}");
    assert_eq!(rig.amqp.depth(&rig.name("guests")).await.unwrap().0, 0, "no further guest links");
    let counts = rig.sandbox.counts();
    assert_eq!((counts.calls, counts.messages), (EVENTS as u64, EVENTS as u64));
}
