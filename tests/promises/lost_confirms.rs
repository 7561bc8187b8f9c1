//! A channel that answers, but on which the broker no longer confirms; and confirms that outlive their delivery.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::sync::watch;

use testkit::{
    Rig,
    frames::{self, BASIC_ACK, BASIC_DELIVER, Frame},
    soon,
};

/// Method of AMQP 0-9-1.
const CHANNEL_OPEN_OK: [u8; 4] = [0, 20, 0, 11];
/// Number of links of an event: one for its guest, one for its expert.
const LINKS: usize = 2;

#[tokio::test]
async fn channel_without_confirms_is_replaced() {
    let rig = Rig::new().await;
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&dropped);
    // Drops all confirms of a connection until it opens a channel after a dropped one.
    let url = frames::relay(rig.url(), move || {
        let (count, mut has_dropped, mut healed) = (Arc::clone(&count), false, false);
        move |frame: Frame| {
            healed |= has_dropped && frame.is(CHANNEL_OPEN_OK);
            let drops = frame.is(BASIC_ACK) && !healed;
            has_dropped |= drops;
            count.fetch_add(usize::from(drops), Ordering::Relaxed);
            if drops { Vec::new() } else { vec![frame] }
        }
    })
    .await;
    let settings = [("amqp.url", url.as_str()), ("amqp.timeout", "1s"), ("amqp.watch_interval", "1h")];
    let worker = rig.start(&settings).await;
    let mut guests = rig.guest_links().await;
    rig.publish(1).await;
    worker.output.until("\"stage\":\"link\",\"outcome\":\"done\"", 1).await;
    assert_ne!(dropped.load(Ordering::Relaxed), 0);
    let links = guests.take(2).await;
    assert_eq!(links[0].id(), links[1].id(), "the repeat has the same id");
    let lost = worker.output.logged("lost connection to broker; reconnecting");
    assert!(lost.iter().all(|one| one["connection"] != "publish"), "{lost:?}");
    worker.stop().await;
}

/// The broker stored the links of an event, and confirms them late. Meanwhile the connection of the consumer ends, and that of the
/// publisher does not.
#[tokio::test]
async fn links_with_late_confirms_outlive_the_consumers_connection() {
    let rig = Rig::new().await;
    let (cut, held) = (Arc::new(AtomicBool::new(false)), watch::Sender::new(0));
    let (has_cut, count) = (Arc::clone(&cut), held.clone());
    // Holds the confirms of the first event's links until the connection of the consumer was cut at the next event. The redelivery's
    // confirms pass, and release them.
    let url = frames::relay(rig.url(), move || {
        let (cut, count, mut late, mut confirmed) =
            (Arc::clone(&has_cut), count.clone(), Vec::new(), BTreeSet::new());
        move |frame: Frame| {
            if let Some((number, has_earlier)) = frame.confirm() {
                if cut.load(Ordering::Relaxed) {
                    return late.drain(..).chain([frame]).collect();
                }
                confirmed.extend(if has_earlier { 1 } else { number }..=number);
                count.send_replace(confirmed.len());
                late.push(frame);
                return Vec::new();
            }
            let is_event = frame.is(BASIC_DELIVER) && frame.contains("session.start");
            if is_event && *count.borrow() == LINKS && !cut.swap(true, Ordering::Relaxed) {
                return vec![Frame::close_connection()];
            }
            vec![frame]
        }
    })
    .await;
    let worker = rig.start(&[("amqp.url", &url)]).await;
    rig.publish(1).await;
    let mut arrived = held.subscribe();
    soon("the confirms of the links", arrived.wait_for(|held| *held == LINKS)).await.unwrap();
    rig.publish(2).await;
    worker.output.until("intended outcome: done", 1).await;
    worker.output.until("\"stage\":\"link\",\"outcome\":\"done\"", 2).await;
    rig.until_experts_have(2).await;
    worker.stop().await;
    assert_eq!(rig.amqp.depth(&rig.name("guests")).await.unwrap().0, 2, "one message for each guest");
    rig.assert_queues_are_empty(&rig.amqp).await;
    assert_eq!(rig.sandbox.counts().messages, 2);
}
