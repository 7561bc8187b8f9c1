//! A listener that can refuse connections. Meanwhile, a bound socket that does not listen keeps the address.

use std::{io, net::SocketAddr, time::Duration};

use axum::serve::Listener;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    time::sleep,
};

/// Pause after an error of the socket, such as an address that is in use by a connection of another program.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// True while connections are accepted.
pub(super) type Gate = watch::Sender<bool>;

pub(super) struct GatedListener {
    listener: Option<TcpListener>,
    reserved: Option<TcpSocket>,
    addr: SocketAddr,
    wanted: watch::Receiver<bool>,
    listening: Gate,
}

impl GatedListener {
    /// `listening` gets each change of the socket that follows a change of `wanted`.
    pub(super) const fn new(
        listener: TcpListener,
        addr: SocketAddr,
        wanted: watch::Receiver<bool>,
        listening: Gate,
    ) -> Self {
        Self { listener: Some(listener), reserved: None, addr, wanted, listening }
    }

    /// Opens or closes the socket as wanted. Returns the socket if it is open.
    async fn follow(&mut self) -> Option<&TcpListener> {
        if !*self.wanted.borrow() {
            self.listener = None;
            if self.reserved.is_none() {
                self.reserved = reserve(self.addr).ok();
            }
        } else if self.listener.is_none() {
            let socket = self.reserved.take().map_or_else(|| reserve(self.addr), Ok);
            match socket.and_then(|socket| socket.listen(BACKLOG)) {
                Ok(listener) => self.listener = Some(listener),
                Err(_) => sleep(ERROR_PAUSE).await,
            }
        }
        self.listening.send_replace(self.listener.is_some());
        self.listener.as_ref()
    }
}

impl Listener for GatedListener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let mut wanted = self.wanted.clone();
            if let Some(listener) = self.follow().await {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, peer)) => {
                            // Without this option, the kernel may delay small responses by 40 ms.
                            let _ = stream.set_nodelay(true);
                            return (stream, peer);
                        }
                        Err(_) => sleep(ERROR_PAUSE).await,
                    },
                    () = changes_to(&mut wanted, false) => {}
                }
            } else {
                changes_to(&mut wanted, true).await;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}

/// Resolves when the value is `open`.
async fn changes_to(wanted: &mut watch::Receiver<bool>, open: bool) {
    // This fails only without a sender, which the server's state holds.
    let _ = wanted.wait_for(|wanted| *wanted == open).await;
}

fn reserve(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}
