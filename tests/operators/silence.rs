//! A stalled consumer, which stays registered but receives nothing, is detected and reconnected.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::support::{Rig, admin::Admin};

/// Frame types and methods of AMQP 0-9-1.
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const CONSUME_OK: [u8; 4] = [0, 60, 0, 21];
const DELIVER: [u8; 4] = [0, 60, 0, 60];

/// Relays to `broker`. Connections made while `deaf` get everything except deliveries.
async fn relay(broker: String, deaf: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((worker, _)) = listener.accept().await {
            let broker = TcpStream::connect(&broker).await.unwrap();
            let ((from_worker, to_worker), (from_broker, mut to_broker)) =
                (worker.into_split(), broker.into_split());
            let deaf = deaf.load(Ordering::Relaxed);
            tokio::spawn(async move {
                let mut from_worker = from_worker;
                // If either side disconnects, so does the other.
                tokio::select! {
                    _ = copy(&mut from_worker, &mut to_broker) => {}
                    _ = without_deliveries(from_broker, to_worker, deaf) => {}
                }
            });
        }
    });
    address
}

async fn without_deliveries(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    deaf: bool,
) -> std::io::Result<()> {
    let mut consuming = HashSet::new();
    loop {
        let mut frame = vec![0; 7];
        from.read_exact(&mut frame).await?;
        let (kind, channel) = (frame[0], [frame[1], frame[2]]);
        let bytes = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]) as usize;
        // Each frame ends with one byte.
        frame.resize(7 + bytes + 1, 0);
        from.read_exact(&mut frame[7..]).await?;
        let method = (kind == METHOD).then(|| &frame[7..11]);
        if method == Some(CONSUME_OK.as_slice()) {
            consuming.insert(channel);
        }
        let delivered = method == Some(DELIVER.as_slice()) || [HEADER, BODY].contains(&kind);
        if !(deaf && consuming.contains(&channel) && delivered) {
            to.write_all(&frame).await?;
        }
    }
}

#[tokio::test]
async fn stalled_consumer_is_reconnected_and_processes_the_backlog() {
    const EVENTS: usize = 10;
    let rig = Rig::new().await;
    let (rest, at) = rig.url().split_once('@').unwrap();
    let (broker, vhost) = at.split_once('/').unwrap();
    let deaf = Arc::new(AtomicBool::new(true));
    let address = relay(broker.to_owned(), Arc::clone(&deaf)).await;
    let url = format!("{rest}@{address}/{vhost}");
    let settings = [("amqp.url", url.as_str()), ("amqp.watch_interval", "200ms"), ("amqp.prefetch", "4")];
    let worker = rig.start(&settings).await;
    let admin = Admin::of(&worker).await;
    for stage in ["link", "host"] {
        admin.until(&format!("consuming{{stage=\"{stage}\"}}"), "1").await;
    }
    // New connections get deliveries.
    deaf.store(false, Ordering::Relaxed);
    rig.publish_many(0..EVENTS).await;
    rig.guest_links().await.take(EVENTS).await;
    rig.until_experts_have(EVENTS as u64).await;
    for stage in ["link", "host"] {
        let name = format!("silent_consumers_total{{stage=\"{stage}\"}}");
        assert_ne!(admin.series().await[&name], "0", "{stage}");
    }
    admin.until("queue_messages{queue=\"work\",stage=\"link\"}", "0").await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
}
