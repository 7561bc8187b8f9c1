//! `poison` means that workers crashed while they processed the event; requeues by the program do not count.

use std::os::unix::process::ExitStatusExt;

use lapin::types::AMQPValue;

use testkit::Rig;

#[cfg(debug_assertions)]
#[tokio::test]
async fn event_that_kills_workers_is_poison_after_the_limit() {
    const DEATHS: u32 = 5;
    let rig = Rig::new().await;
    let most = DEATHS.to_string();
    let settings = [("amqp.deliveries_max", most.as_str())];
    let declared = rig.command(&["topology", "--declare"], &settings).await;
    assert_eq!(declared.status, Some(0), "{declared:?}");
    rig.publish(1).await;
    // Once, on a busy machine, the broker had counted three deliveries after two killed workers. Nobody knows why yet. The limit was
    // reached one death earlier, which the contract allows: "at most".
    let (mut killed, mut dead) = (0, rig.dead_letters("sessions").await);
    let letter = loop {
        let worker = rig.launch_with_fault(&settings, "sessions.taken:1:KILL");
        tokio::select! {
            status = worker.ended() => {
                assert_eq!(status.signal(), Some(9), "{status}");
                killed += 1;
            }
            letter = dead.next() => break letter,
        }
    };
    assert!((DEATHS - 1..=DEATHS).contains(&killed), "{killed}");
    assert_eq!((letter.id().as_str(), letter.header("x-dead-class").as_str()), ("event-1", "poison"));
    assert_eq!(
        letter.header("x-dead-reason"),
        "2 workers crashed while processing this message, after 3 deliveries without an outcome"
    );
    // No count is left: a repeated event starts as new.
    let worker = rig.start(&settings).await;
    rig.publish(1).await;
    rig.guest_links().await.next().await;
    worker.stop().await;
}

/// Publishing fails for much longer than `amqp.deliveries_max` times `amqp.delivery_timeout`.
#[tokio::test]
async fn publishing_outage_makes_no_event_poison() {
    const UNFULFILLED: &str = "requeued: publishing or settling failed";
    let rig = Rig::new().await;
    let settings = [
        ("hosts.delivery", "amqp"),
        ("topology.declare", "off"),
        ("amqp.deliveries_max", "2"),
        ("amqp.delivery_timeout", "1s"),
        ("instant_connect.timeout", "1s"),
        ("hosts.timeout", "1s"),
    ];
    let declared = rig.command(&["topology", "--declare"], &settings[..1]).await;
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
    let worker = rig.start(&settings).await;
    rig.publish(1).await;
    worker.output.until(UNFULFILLED, 8).await;
    assert!(worker.output.logged("dead letter").is_empty());
    let mut taken = rig.amqp.consume(&hosts).await;
    taken.take(fillers).await;
    taken.next().await;
    worker.output.until("\"stage\":\"link\",\"outcome\":\"done\"", 1).await;
    worker.stop().await;
    rig.amqp.until_unused_and_empty(&rig.name("sessions")).await;
    assert_eq!(rig.amqp.depth(&rig.name("sessions.dead")).await.unwrap().0, 0);
}
