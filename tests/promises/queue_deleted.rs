//! A queue that an operator deletes while the worker consumes it: what comes after that is served.

use std::time::Duration;

use instant_connect_worker::sandbox::RecordedMessage;

use crate::support::{Rig, events::email, rig::random, soon};

/// How often the queue is deleted.
const ROUNDS: usize = 20;

#[tokio::test]
async fn hosts_queue_deleted_at_any_moment_of_an_event_is_consumed_again() {
    let (rig, mut random) = (Rig::new().await, random());
    let worker = rig.start(&[("amqp.watch_interval", "1s")]).await;
    let hosts = rig.name("hosts");
    for round in 0..ROUNDS {
        let (lost, kept) = (2 * round, 2 * round + 1);
        rig.publish(lost).await;
        tokio::time::sleep(Duration::from_millis(random.u64(..60))).await;
        // Its link may be deleted with the queue, which is what the operator wanted.
        rig.amqp.delete_queues([hosts.as_str()]).await;
        rig.publish(kept).await;
        let expert = email(kept);
        let told = rig.sandbox.until(|sandbox| {
            let to = |message: &RecordedMessage| message.to_person_email.as_deref() == Some(&expert);
            sandbox.messages().iter().any(to)
        });
        soon(&format!("a message to the expert of event {kept}"), told).await;
    }
    worker.stop().await;
}
