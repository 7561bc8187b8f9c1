//! What operators and orchestrators ask over HTTP: `/metrics`, and nothing else. Nothing here needs a secret or shows one.
//!
//! The server has a thread of its own, so that it answers even when all of the worker's threads are stuck.

mod serve;

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use tokio::sync::oneshot;
use tracing::info;

use crate::telemetry::metrics::Metrics;

/// Why the server could not be started.
#[derive(Debug, thiserror::Error)]
#[error(
    "admin.listen = \"{listen}\": cannot listen there: {source}\nhint: another worker or program may have this port; \
     set another (port 0 takes a free one), or \"off\""
)]
pub struct AdminError {
    listen: SocketAddr,
    source: io::Error,
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Admin {
    /// Dropped, it tells the server's thread to end.
    _stop: oneshot::Sender<()>,
}

impl Admin {
    /// Serves on `listen`, and says where in the log.
    ///
    /// # Errors
    /// [`AdminError`] where the address is taken or not one of this machine's.
    pub fn start(listen: SocketAddr, metrics: Metrics) -> Result<Self, AdminError> {
        let failed = |source| AdminError { listen, source };
        let listener = TcpListener::bind(listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        serve::start(listener, router(metrics), stopped).map_err(failed)?;
        info!(%address, "admin server listens");
        Ok(Self { _stop: stop })
    }
}

fn router(metrics: Metrics) -> Router {
    Router::new().route("/metrics", get(render)).with_state(metrics)
}

async fn render(State(metrics): State<Metrics>) -> impl IntoResponse {
    match metrics.render() {
        Ok(text) => (StatusCode::OK, [("content-type", prometheus::TEXT_FORMAT)], text),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, [("content-type", "text/plain")], format!("{error}\n"))
        }
    }
}
