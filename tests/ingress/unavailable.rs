//! A broker that is away, blocked or full: 503, and the same key is safe.

use std::time::{Duration, Instant};

use lapin::types::AMQPValue;

use testkit::{Rig, admin::Admin, event, poll};

use super::{Caller, Reply, with};

fn assert_unavailable(rig: &Rig, answer: &Reply, since: Instant) {
    assert_eq!((answer.status, answer.problem(rig).as_str()), (503, "unavailable"), "{answer:?}");
    assert!(since.elapsed() < Duration::from_secs(9), "{:?}", since.elapsed());
    assert_eq!(answer.header("retry-after"), "5");
    assert!(answer.text.contains("the same key is safe"), "{answer:?}");
}

#[tokio::test]
async fn request_while_the_broker_is_away_or_blocked_is_answered_in_time_and_its_repeat_has_one_effect() {
    let rig = Rig::private().await;
    let worker = rig.start(&with(&[])).await;
    let (caller, admin) = (Caller::of(&worker).await, Admin::of(&worker).await);
    rig.broker().stop().await;
    let since = Instant::now();
    assert_unavailable(&rig, &caller.start("run-1", &event(1)).await, since);
    rig.broker().start_again().await;
    let accepted = poll("the broker", async || {
        let answer = caller.start("run-1", &event(1)).await;
        (answer.status == 202).then_some(answer)
    })
    .await;
    let amqp = rig.reconnect().await;
    let mut guests = amqp.consume(&rig.name("guests")).await;
    assert_eq!(guests.next().await.json()["eventId"], accepted.json()["eventId"]);

    rig.broker().disk_is_full(true).await;
    // The alarm blocks a connection when it publishes, which may be a moment later.
    let mut blocked = None;
    for n in 2.. {
        let since = Instant::now();
        let answer = caller.start(&format!("run-{n}"), &event(n)).await;
        if answer.status != 202 {
            assert_unavailable(&rig, &answer, since);
            blocked = Some(n);
            break;
        }
    }
    let n = blocked.unwrap();
    admin.until("publishing_blocked", "1").await;
    rig.broker().disk_is_full(false).await;
    poll("the end of the alarm", async || {
        let answer = caller.start(&format!("run-{n}"), &event(n)).await;
        (answer.status == 202).then_some(())
    })
    .await;
    assert_eq!(guests.take(n - 1).await.len(), n - 1);
    rig.until_experts_have(n as u64).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&amqp).await;
    assert_eq!(rig.sandbox.counts().messages, n as u64);
}

#[tokio::test]
async fn event_that_no_queue_takes_is_not_accepted() {
    let rig = Rig::new().await;
    let settings = with(&[("topology.declare", "off")]);
    let declared = rig.command(&["topology", "--declare"], &[]).await;
    assert_eq!(declared.status, Some(0), "{declared:?}");
    let sessions = rig.name("sessions");
    rig.amqp.unbind(&sessions, &sessions, "session.start").await;
    let ingress = rig.launch_role("ingress", &settings);
    let caller = Caller::of(&ingress).await;
    let since = Instant::now();
    let answer = caller.start("run-1", &event(1)).await;
    assert_unavailable(&rig, &answer, since);
    assert!(answer.text.contains("no queue"), "{answer:?}");

    rig.amqp.delete_queues([sessions.as_str()]).await;
    let limited = [
        ("x-queue-type", AMQPValue::LongString("quorum".into())),
        ("x-overflow", AMQPValue::LongString("reject-publish".into())),
        ("x-max-length", AMQPValue::LongInt(1)),
    ];
    rig.amqp.declare(&sessions, &limited).await;
    rig.amqp.bind(&sessions, &sessions, "session.start").await;
    rig.amqp.fill(&sessions).await;
    let since = Instant::now();
    let answer = caller.start("run-1", &event(1)).await;
    assert_unavailable(&rig, &answer, since);
    assert!(answer.text.contains("is a queue full?"), "{answer:?}");
    ingress.stop().await;
}
