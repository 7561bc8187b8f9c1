//! What operators and orchestrators ask over HTTP: `/livez`, `/readyz` and `/metrics`, and nothing else. Nothing here needs
//! a secret or shows one.
//!
//! - [`health`]: what the first two say
//!
//! The server has a thread of its own, so that it answers even when all of the worker's threads are stuck.

pub(crate) mod health;
mod serve;

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use tokio::sync::oneshot;
use tracing::info;

use health::{Health, HealthReport};

/// Why the server could not be started.
#[derive(Debug, thiserror::Error)]
#[error(
    "admin.listen = \"{listen}\": cannot listen there: {source}\nhint: another worker or program may have this port; \
     set another (port 0 takes a free one), or \"off\""
)]
pub(crate) struct AdminError {
    listen: SocketAddr,
    source: io::Error,
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Admin {
    /// Dropped, it tells the server's thread to end.
    _stop: oneshot::Sender<()>,
}

impl Admin {
    /// Serves on `listen`, and says where in the log.
    ///
    /// # Errors
    /// [`AdminError`] where the address is taken or not one of this machine's.
    pub(crate) fn start(listen: SocketAddr, health: Health) -> Result<Self, AdminError> {
        let failed = |source| AdminError { listen, source };
        let listener = TcpListener::bind(listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        serve::start(listener, router(health), stopped).map_err(failed)?;
        info!(%address, "admin server listens");
        Ok(Self { _stop: stop })
    }
}

fn router(health: Health) -> Router {
    Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health)
}

async fn live(State(health): State<Health>) -> impl IntoResponse {
    said(health.live())
}

async fn ready(State(health): State<Health>) -> impl IntoResponse {
    said(health.ready())
}

fn said(answer: HealthReport) -> impl IntoResponse {
    (if answer.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(answer))
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    match health.metrics().render() {
        Ok(text) => (StatusCode::OK, [("content-type", prometheus::TEXT_FORMAT)], text),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, [("content-type", "text/plain")], format!("{error}\n"))
        }
    }
}
