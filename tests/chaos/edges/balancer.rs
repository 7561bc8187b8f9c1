//! A load balancer in front of several ingresses, because Webex Connect sends its receipts to one URL.

use std::net::SocketAddr;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

/// The balancer. Dropping it ends it and its connections.
pub(super) struct Balancer {
    address: SocketAddr,
    accepting: AbortHandle,
}

impl Balancer {
    /// Starts a balancer that takes one of `targets` for each connection, at random, and another one if that does not listen.
    pub(super) async fn start(targets: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                while connections.try_join_next().is_some() {}
                connections.spawn(pass(client, targets.clone()));
            }
        });
        Self { address, accepting: accepting.abort_handle() }
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Passes everything on until one side ends. The client's connection ends if no target listens.
async fn pass(mut client: TcpStream, mut targets: Vec<String>) {
    fastrand::shuffle(&mut targets);
    for target in targets {
        if let Ok(mut server) = TcpStream::connect(target).await {
            // An error is the end of a connection, such as that of a killed ingress.
            _ = copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
}
