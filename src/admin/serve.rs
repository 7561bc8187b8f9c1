//! Serves HTTP with limits on connections, time and request size.

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

/// Maximum connections at once. A new connection replaces the oldest: a response takes milliseconds, so an old connection is
/// slow or idle and must not delay a probe of the kubelet.
const CONNECTIONS_MAX: usize = 64;
/// Time limit for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for a whole connection, which serves one request.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum head of a request, in bytes; hyper accepts no smaller limit.
const HEAD_BYTES_MAX: usize = 8192;

/// Serves `router` on `listener` in a separate thread until `stopped` resolves.
pub(super) fn start(listener: TcpListener, router: Router, stopped: oneshot::Receiver<()>) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let serve = move || {
        runtime.block_on(async {
            let served = accept(listener, router);
            tokio::select! {
                Err(error) = served => warn!(%error, "admin server failed; /livez, /readyz and /metrics do not respond until the worker restarts"),
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
            // No file descriptor was free, or the client disconnected. Try the next connection.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= CONNECTIONS_MAX
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        // A timeout or an error needs no response: the client is too slow or gone.
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
