//! A TCP relay between worker and broker with faults.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::sleep,
};

use crate::soon;

/// The treatment of bytes in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Pass,
    /// Each chunk is delayed by this time.
    Delay(Duration),
    /// Nothing passes and nothing is closed; the bytes pass later.
    Stall,
    /// Bytes are lost. A connection that lost bytes passes none afterwards, even if the relay heals.
    Drop,
}

#[derive(Clone, Copy, Debug)]
struct Mode {
    /// From the worker to the broker.
    up: Flow,
    /// From the broker to the worker.
    down: Flow,
    /// Increases when all connections are cut.
    cuts: u64,
}

/// The relay. Dropping it ends it and its connections.
pub struct Relay {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    accepted: watch::Receiver<usize>,
    accepting: AbortHandle,
}

impl Relay {
    /// Starts a relay to `target`.
    pub async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = watch::Sender::new(Mode { up: Flow::Pass, down: Flow::Pass, cuts: 0 });
        let modes = mode.clone();
        let (count, accepted) = watch::channel(0);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (worker, _) = listener.accept().await.unwrap();
                count.send_modify(|count| *count += 1);
                while connections.try_join_next().is_some() {}
                connections.spawn(relay(worker, target.clone(), modes.subscribe()));
            }
        });
        Self { address, mode, accepted, accepting: accepting.abort_handle() }
    }

    /// Starts a relay to the broker of `url`. Returns the relay and the URL through it.
    pub async fn in_front_of(url: &str) -> (Self, String) {
        let address = url.split(['@', '/']).nth(3).unwrap();
        let relay = Self::start(address.to_owned()).await;
        let through = url.replace(address, &relay.address().to_string());
        (relay, through)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the treatment of all connections from now on.
    pub fn set(&self, up: Flow, down: Flow) {
        self.mode.send_modify(|mode| (mode.up, mode.down) = (up, down));
    }

    pub fn heal(&self) {
        self.set(Flow::Pass, Flow::Pass);
    }

    /// Number of connections so far.
    pub fn accepted(&self) -> usize {
        *self.accepted.borrow()
    }

    /// Waits until there were this many connections.
    pub async fn until_accepted(&self, count: usize) {
        let mut accepted = self.accepted.clone();
        let enough = accepted.wait_for(|accepted| *accepted >= count);
        _ = soon("a new connection", enough).await.expect("the relay runs");
    }

    /// Cuts all connections; bytes in transit are lost.
    pub fn cut(&self) {
        self.mode.send_modify(|mode| mode.cuts += 1);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn relay(worker: TcpStream, target: String, modes: watch::Receiver<Mode>) {
    let cuts = modes.borrow().cuts;
    let Ok(broker) = TcpStream::connect(target).await else { return };
    _ = (worker.set_nodelay(true), broker.set_nodelay(true));
    let (from_worker, to_worker) = worker.into_split();
    let (from_broker, to_broker) = broker.into_split();
    let mut cut = modes.clone();
    tokio::select! {
        () = pump(from_worker, to_broker, modes.clone(), |mode| mode.up) => {}
        () = pump(from_broker, to_worker, modes, |mode| mode.down) => {}
        _ = cut.wait_for(|mode| mode.cuts > cuts) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut modes: watch::Receiver<Mode>,
    flow: impl Fn(&Mode) -> Flow,
) {
    let mut buffer = vec![0; 16 * 1024];
    let mut doomed = false;
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        // The wait fails only when the relay is gone.
        let Ok(mode) = modes.wait_for(|mode| flow(mode) != Flow::Stall).await.map(|mode| *mode) else {
            return;
        };
        match flow(&mode) {
            Flow::Drop => doomed = true,
            Flow::Delay(delay) => sleep(delay).await,
            Flow::Pass | Flow::Stall => {}
        }
        if !doomed && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
