//! A broker that is short of disk takes no publishes, and the worker waits for it on the connections that it has.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::sleep;

use super::broker_restarts::{all_guest_links, until_every_expert_knows};
use crate::support::{Rig, admin::Admin, soon};

/// The worker's connections, as the broker knows them.
async fn connections(rig: &Rig) -> BTreeSet<String> {
    let told = rig.broker().ctl(&["list_connections", "pid", "client_properties"]).await;
    let ours = told.lines().filter(|line| line.contains("instant-connect-worker"));
    ours.map(|line| line.split('\t').next().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_under_load_that_outlasts_every_limit_is_waited_out_on_one_connection_and_repeats_nothing() {
    const EVENTS: usize = 500;
    const LIMIT: Duration = Duration::from_secs(5);
    let rig = Rig::private().await;
    // So slowly that there is much left to publish when the disk is full.
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
    // Nothing is to happen, and for that there is no event.
    sleep(LIMIT * 2).await;
    assert_eq!(admin.series().await["publishing_blocked"], "1");
    assert_eq!(connections(&rig).await, before);
    let served = rig.sandbox.counts().calls;
    assert!(served < EVENTS as u64, "{served}: events are left");
    rig.sandbox.clear_faults();
    rig.broker().disk_is_full(false).await;

    let links = all_guest_links(&rig.amqp, &rig, EVENTS).await;
    until_every_expert_knows(&rig, EVENTS).await;
    admin.until("publishing_blocked", "0").await;
    assert_eq!(connections(&rig).await, before);
    worker.stop().await;
    rig.assert_all_is_done(&rig.amqp).await;
    let repeats: Vec<_> = links.iter().filter(|(_, copies)| copies.len() > 1).map(|(id, _)| id).collect();
    assert!(repeats.is_empty(), "{repeats:?}");
    assert_eq!(rig.amqp.depth(&rig.name("guests")).await.unwrap().0, 0, "no guest's link beyond these");
    let counts = rig.sandbox.counts();
    assert_eq!((counts.calls, counts.messages), (EVENTS as u64, EVENTS as u64));
}
