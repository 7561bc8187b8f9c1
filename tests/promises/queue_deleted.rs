//! An operator deletes a queue while the worker consumes it. Later messages are processed.

use std::time::Duration;

use instant_connect_sandbox::RecordedMessage;

use testkit::{Rig, events::email, rig::random, soon};

/// Number of times that the queue is deleted.
const ROUNDS: usize = 20;

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
