//! An operator deletes a queue while the worker consumes it. Later messages are processed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use instant_connect_sandbox::RecordedMessage;

use testkit::{
    Rig,
    events::email,
    frames::{self, Frame},
    random, soon,
};

/// Number of times that the queue is deleted.
const ROUNDS: usize = 20;
/// Methods of AMQP 0-9-1.
const BASIC_RETURN: [u8; 4] = [0, 60, 0, 50];
const EXCHANGE_DECLARE_OK: [u8; 4] = [0, 40, 0, 11];

#[tokio::test]
async fn deleted_hosts_queue_is_recreated_and_consumed_again() {
    let (rig, mut random) = (Rig::new().await, random());
    let worker = rig.start(&[("amqp.watch_interval", "1s")]).await;
    let hosts = rig.name("hosts");
    for round in 0..ROUNDS {
        let (lost, kept) = (2 * round, 2 * round + 1);
        rig.publish(lost).await;
        tokio::time::sleep(Duration::from_millis(random.u64(..60))).await;
        // The host link may be deleted with the queue, as the operator intended.
        rig.amqp.delete_queues([hosts.as_str()]).await;
        rig.publish(kept).await;
        let expert = email(kept);
        let arrived = rig.sandbox.until(|sandbox| {
            let to = |message: &RecordedMessage| message.to_person_email.as_deref() == Some(&expert);
            sandbox.messages().iter().any(to)
        });
        soon(&format!("a message to the expert of event {kept}"), arrived).await;
    }
    worker.stop().await;
}

/// The host's link is returned. The confirm of the guest's link arrives while the topology is redeclared, and no other confirm
/// is outstanding afterwards.
#[tokio::test]
async fn link_that_is_confirmed_during_a_redeclare_is_published_once() {
    let rig = Rig::new().await;
    let delayed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&delayed);
    let url = frames::relay(rig.url(), move || {
        let (count, mut returned, mut done) = (Arc::clone(&count), false, false);
        // The confirm of the guest's link, which is the first message, and the first reply to the redeclaration.
        let (mut confirm, mut declared) = (None, None);
        move |frame: Frame| {
            returned |= frame.is(BASIC_RETURN);
            let mut passing = Vec::new();
            match frame.confirm() {
                Some((number, all)) if !done => {
                    if number == 1 || all {
                        confirm = Some(frame.confirm_of(1));
                    }
                    let others = if all { 2..=number } else { number.max(2)..=number };
                    passing.extend(others.map(|number| frame.confirm_of(number)));
                }
                None if !done && returned && frame.is(EXCHANGE_DECLARE_OK) => declared = Some(frame),
                _ => passing.push(frame),
            }
            if confirm.is_some() && declared.is_some() {
                done = true;
                count.fetch_add(1, Ordering::Relaxed);
                passing.extend(declared.take());
                passing.extend(confirm.take());
            }
            passing
        }
    })
    .await;
    // Without a consumer that declares the queue again first.
    let settings = [("amqp.url", url.as_str()), ("amqp.watch_interval", "1h"), ("hosts.delivery", "amqp")];
    let worker = rig.start(&settings).await;
    rig.amqp.delete_queues([rig.name("hosts").as_str()]).await;
    rig.publish(1).await;
    worker.output.until("\"stage\":\"link\",\"outcome\":\"done\"", 1).await;
    assert_eq!(delayed.load(Ordering::Relaxed), 1);
    assert_eq!(rig.amqp.read_all(&rig.name("guests")).await.len(), 1);
    worker.stop().await;
}
