//! The listener and its connections.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, http::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::service::{IngressService, REQUEST_MAX, RequestOrigin};

/// Time limit for the TLS handshake, and for the head of a request. Also the longest pause between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum head of a request, in bytes; hyper accepts no smaller limit.
const HEAD_BYTES_MAX: usize = 8192;
/// Time after which a connection serves no further request, so that clients come to other replicas, too.
const CONNECTION_MAX: Duration = Duration::from_secs(60);

/// Accepts connections.
pub(super) struct IngressListener {
    pub(super) listener: TcpListener,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) service: Arc<IngressService>,
    /// Maximum number of open connections.
    pub(super) open_max: usize,
    /// Time after a stop in which connections are still accepted.
    pub(super) drain: Duration,
}

/// An open connection.
struct OpenConnection {
    task: AbortHandle,
    busy: Arc<AtomicBool>,
}

impl IngressListener {
    /// Serves until a stop is requested and the drain has ended, and then until the requests in progress have responses.
    pub(super) async fn run(self) {
        let tasks = TaskTracker::new();
        let drained = async {
            self.service.draining.cancelled().await;
            sleep(self.drain).await;
        };
        tokio::pin!(drained);
        let mut open: VecDeque<OpenConnection> = VecDeque::new();
        loop {
            let accepted = tokio::select! {
                () = drained.as_mut() => break,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, peer)) = accepted else {
                // No file descriptor was free, or the client disconnected. Try the next connection.
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            if !make_room(&mut open, self.open_max) {
                continue;
            }
            let busy = Arc::new(AtomicBool::new(false));
            let origin = RequestOrigin { peer: peer.ip().to_canonical(), busy: Arc::clone(&busy) };
            let connection = Connection { tls: self.tls.clone(), service: Arc::clone(&self.service) };
            let task = tasks.spawn(connection.run(stream, origin)).abort_handle();
            open.push_back(OpenConnection { task, busy });
        }
        self.service.closed.cancel();
        drop(self.listener);
        tasks.close();
        tasks.wait().await;
    }
}

/// Ends the oldest connection without a request in progress if there are too many: it is slow or idle, and must not keep
/// others out. False if every connection is busy.
fn make_room(open: &mut VecDeque<OpenConnection>, max: usize) -> bool {
    open.retain(|connection| !connection.task.is_finished());
    if open.len() < max {
        return true;
    }
    let idle = open.iter().position(|connection| !connection.busy.load(Ordering::Relaxed));
    let Some(idle) = idle.and_then(|position| open.remove(position)) else { return false };
    idle.task.abort();
    true
}

/// The parts that a connection needs.
struct Connection {
    tls: Option<TlsAcceptor>,
    service: Arc<IngressService>,
}

impl Connection {
    /// Serves the requests of one connection. An error needs no response: the client is too slow, malformed or gone.
    async fn run(self, stream: TcpStream, origin: RequestOrigin) {
        // An error only makes responses slower.
        _ = stream.set_nodelay(true);
        let served = match &self.tls {
            None => self.serve(stream, origin).await,
            Some(acceptor) => match timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => self.serve(stream, origin).await,
                Ok(Err(error)) => Err(error.kind().to_string()),
                Err(_) => Err("TLS handshake not completed in time".to_owned()),
            },
        };
        if let Err(error) = served {
            debug!(error, "ingress: connection failed");
        }
    }

    async fn serve<S>(&self, stream: S, origin: RequestOrigin) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|request: Request<Incoming>| {
            let origin = &origin;
            async move { Ok::<_, Infallible>(self.service.answer(request.map(Body::new), origin).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return ended.map_err(|error| reason(&error)),
            () = self.service.closed.cancelled() => {}
            () = sleep(CONNECTION_MAX) => {}
        }
        connection.as_mut().graceful_shutdown();
        let rest = timeout(HEAD_TIMEOUT + REQUEST_MAX, connection.as_mut()).await;
        rest.unwrap_or_else(|_| Ok(())).map_err(|error| reason(&error))
    }
}

/// Our own words, because a library's text may repeat a part of a request.
fn reason(error: &hyper::Error) -> String {
    let reason = if error.is_timeout() {
        "head not received in time"
    } else if error.is_parse() {
        "head malformed or too large"
    } else {
        "client disconnected"
    };
    reason.to_owned()
}

/// Binds the listener.
pub(super) fn bind(listen: std::net::SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
