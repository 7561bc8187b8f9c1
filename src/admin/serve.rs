//! Serves HTTP within limits: of connections, of time, of what a request may bring.

use std::{collections::VecDeque, io, net::TcpListener, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpStream,
    runtime,
    sync::oneshot,
    task::AbortHandle,
    time::{sleep, timeout},
};
use tracing::warn;

/// Most connections at once. The next one takes the place of the oldest: an answer takes milliseconds, so whoever is there for
/// long asks slowly or not at all, and must not keep a kubelet's question waiting.
const CONNECTIONS_MAX: usize = 64;
/// For a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// For a whole connection, which serves one request.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// Largest head of a request, in bytes; hyper takes no less.
const HEAD_BYTES_MAX: usize = 8192;

/// Serves `router` on `listener`, on a thread of its own, until `stopped` resolves.
pub(super) fn start(listener: TcpListener, router: Router, stopped: oneshot::Receiver<()>) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let serve = move || {
        runtime.block_on(async {
            let served = accept(listener, router);
            tokio::select! {
                Err(error) = served => warn!(%error, "the admin server had to stop"),
                _ = stopped => {}
            }
        });
    };
    std::thread::Builder::new().name("admin".to_owned()).spawn(serve).map(drop)
}

async fn accept(listener: TcpListener, router: Router) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut connections: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // No file descriptors left, or a client that went away: the next may be luckier.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= CONNECTIONS_MAX
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        // A client that is too slow, or gone, has no answer to get.
        let served = timeout(CONNECTION_TIMEOUT, serve(stream, router.clone()));
        connections.push_back(tokio::spawn(served).abort_handle());
    }
}

async fn serve(stream: TcpStream, router: Router) -> hyper::Result<()> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await
}
