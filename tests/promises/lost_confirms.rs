//! A channel that answers, but on which the broker no longer confirms.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::support::Rig;

const METHOD: u8 = 1;
/// The class and the method, as they begin a method's frame.
const CHANNEL_OPEN_OK: [u8; 4] = [0, 20, 0, 11];
const BASIC_ACK: [u8; 4] = [0, 60, 0, 80];

/// Passes frames from the broker. Drops all confirms of a connection until it opens a channel after a dropped one.
async fn without_confirms(mut broker: OwnedReadHalf, mut worker: OwnedWriteHalf, dropped: Arc<AtomicUsize>) {
    let (mut has_dropped, mut healed) = (false, false);
    let mut head = [0; 7];
    while broker.read_exact(&mut head).await.is_ok() {
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let mut rest = vec![0; size as usize + 1];
        if broker.read_exact(&mut rest).await.is_err() {
            return;
        }
        let is = |method: [u8; 4]| head[0] == METHOD && rest.starts_with(&method);
        healed |= has_dropped && is(CHANNEL_OPEN_OK);
        if is(BASIC_ACK) && !healed {
            has_dropped = true;
            dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        if worker.write_all(&[head.as_slice(), &rest].concat()).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn channel_without_confirms_is_replaced() {
    let rig = Rig::new().await;
    let (credentials, rest) = rig.url().rsplit_once('@').unwrap();
    let (broker, vhost) = rest.split_once('/').unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("{credentials}@{}/{vhost}", listener.local_addr().unwrap());
    let (broker, dropped) = (broker.to_owned(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&dropped);
    tokio::spawn(async move {
        while let Ok((worker, _)) = listener.accept().await {
            let (mut from_worker, to_worker) = worker.into_split();
            let (from_broker, mut to_broker) = TcpStream::connect(&broker).await.unwrap().into_split();
            tokio::spawn(without_confirms(from_broker, to_worker, Arc::clone(&count)));
            tokio::spawn(async move { copy(&mut from_worker, &mut to_broker).await });
        }
    });
    let settings = [("amqp.url", url.as_str()), ("amqp.timeout", "1s"), ("amqp.watch_interval", "1h")];
    let worker = rig.start(&settings).await;
    let mut guests = rig.guest_links().await;
    rig.publish(1).await;
    worker.output.until("\"stage\":\"link\",\"outcome\":\"done\"", 1).await;
    assert_ne!(dropped.load(Ordering::Relaxed), 0);
    let links = guests.take(2).await;
    assert_eq!(links[0].id(), links[1].id(), "the repeat has the same id");
    assert!(worker.output.logged("publisher lost its connection; reconnecting").is_empty());
    worker.stop().await;
}
