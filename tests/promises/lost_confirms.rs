//! A channel that answers, but on which the broker no longer confirms.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use testkit::{
    Rig,
    frames::{self, BASIC_ACK, Frame},
};

/// Method of AMQP 0-9-1.
const CHANNEL_OPEN_OK: [u8; 4] = [0, 20, 0, 11];

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
