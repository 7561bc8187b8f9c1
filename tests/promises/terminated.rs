//! SIGTERM under load: the worker finishes as much as it can and requeues the rest unchanged.

use std::{collections::BTreeSet, sync::Arc};

use instant_connect_sandbox::Endpoint;

use testkit::{Rig, amqp::Received, random, soon};

/// With one attempt, an event with a counted failure would be dead.
const ONCE: [(&str, &str); 1] = [("retry.attempts", "1")];
const TOO_LATE: &str = "shutdown.grace elapsed with deliveries still in progress; requeueing them";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_terminated_under_load_stops_in_time_and_repeats_nothing() {
    const EVENTS: usize = 3000;
    let rig = Rig::new().await;
    let mut random = random();
    let mut worker = rig.start(&ONCE).await;
    for endpoint in ["joseencrypt", "messages"] {
        rig.sandbox.fault(format!("{endpoint}:delay=20ms").parse().unwrap());
    }
    rig.publish_many(0..EVENTS).await;
    for part in 1..=5 {
        let calls = part * EVENTS as u64 / 6 + random.u64(0..100);
        let reached = rig.sandbox.until(|sandbox| sandbox.counts().calls >= calls);
        soon("the next end", reached).await;
        let output = Arc::clone(&worker.output);
        worker.stop().await;
        assert!(output.logged(TOO_LATE).is_empty(), "the worker did not stop within its grace");
        worker = rig.start(&ONCE).await;
    }
    let links = rig.guest_links().await.take(EVENTS).await;
    rig.until_experts_have(EVENTS as u64).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    let ids: BTreeSet<_> = links.iter().map(Received::id).collect();
    assert_eq!(ids.len(), EVENTS, "each guest has one link");
    assert_eq!(rig.amqp.depth(&rig.name("guests")).await.unwrap().0, 0, "no further guest links");
    let counts = rig.sandbox.counts();
    assert_eq!((counts.calls, counts.messages), (EVENTS as u64, EVENTS as u64));
}

#[tokio::test]
async fn event_unfinished_after_the_grace_is_requeued_uncounted() {
    const EVENTS: usize = 5;
    let rig = Rig::new().await;
    let worker = rig.start(&[("shutdown.grace", "200ms"), ONCE[0]]).await;
    rig.sandbox.fault("joseencrypt:hang".parse().unwrap());
    rig.publish_many(0..EVENTS).await;
    let asked = rig.sandbox.until(|sandbox| sandbox.requests(Endpoint::JoseEncrypt) >= EVENTS as u64);
    soon("a call for each", asked).await;
    let output = Arc::clone(&worker.output);
    worker.stop().await;
    assert_eq!(output.logged(TOO_LATE).len(), 1);
    rig.sandbox.clear_faults();
    let worker = rig.start(&ONCE).await;
    let links = rig.guest_links().await.take(EVENTS).await;
    rig.until_experts_have(EVENTS as u64).await;
    assert!(worker.output.records().iter().all(|one| one.get("attempt").is_none_or(|attempt| *attempt == 1)));
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    assert_eq!(links.iter().map(Received::id).collect::<BTreeSet<_>>().len(), EVENTS);
    assert_eq!(rig.amqp.depth(&rig.name("guests")).await.unwrap().0, 0);
    assert_eq!(rig.sandbox.counts().messages, EVENTS as u64);
}

#[cfg(debug_assertions)]
#[tokio::test]
async fn hanging_ledger_disk_does_not_delay_the_shutdown() {
    let rig = Rig::new().await;
    let worker = rig.launch_with_fault(&[("shutdown.grace", "200ms")], "ledger.asked:1:HANG");
    worker.output.until("connected to broker; consuming", 2).await;
    rig.publish(1).await;
    worker.output.until("fault point ledger.asked", 1).await;
    let output = Arc::clone(&worker.output);
    worker.stop().await;
    assert_eq!(
        output.logged("ledger did not close within 3s (disk not responding); exiting anyway").len(),
        1
    );
}
