//! The admin server: `/livez`, `/readyz` and `/metrics` over HTTP, for operators and orchestrators. It needs no secret and
//! shows none.
//!
//! - [`health`]: liveness and readiness
//!
//! The server has its own thread, so it responds even if all of the worker's threads are stuck.

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

use crate::telemetry::metrics::Metrics;

/// Reason that the server could not start.
#[derive(Debug, thiserror::Error)]
#[error(
    "admin.listen = \"{listen}\": cannot listen there: {source}\nhint: another worker or program may use this port; \
     set another one (port 0 selects a free port), or \"off\""
)]
pub(crate) struct AdminError {
    listen: SocketAddr,
    source: io::Error,
}

/// The running server, which stops when this is dropped.
#[derive(Debug)]
pub(crate) struct Admin {
    /// Stops the server's thread when dropped.
    _stop: oneshot::Sender<()>,
}

impl Admin {
    /// Serves on `listen` and logs the address.
    ///
    /// # Errors
    /// [`AdminError`] if the address is in use or is not an address of this machine.
    pub(crate) fn start(listen: SocketAddr, health: Health, metrics: Metrics) -> Result<Self, AdminError> {
        let failed = |source| AdminError { listen, source };
        let listener = TcpListener::bind(listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        serve::start(listener, router(health, metrics), stopped).map_err(failed)?;
        info!(%address, "admin server listens");
        Ok(Self { _stop: stop })
    }
}

fn router(health: Health, shown: Metrics) -> Router {
    Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state((health, shown))
}

async fn live(State((health, _)): State<(Health, Metrics)>) -> impl IntoResponse {
    response(health.live())
}

async fn ready(State((health, _)): State<(Health, Metrics)>) -> impl IntoResponse {
    response(health.ready())
}

fn response(report: HealthReport) -> impl IntoResponse {
    (if report.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(report))
}

async fn metrics(State((health, metrics)): State<(Health, Metrics)>) -> impl IntoResponse {
    metrics.show(health.state());
    match metrics.render() {
        Ok(text) => (StatusCode::OK, [("content-type", prometheus::TEXT_FORMAT)], text),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, [("content-type", "text/plain")], format!("{error}\n"))
        }
    }
}
