//! Keeps a task connected to the broker: connects, runs the task on the connection, and reconnects when the connection
//! fails. The consumers and the publisher share this loop.

use std::{future::Future, time::Duration};

use tokio::time::sleep;
use tracing::warn;

use super::{
    port::{Broker, BrokerConnection},
    reconnect::ReconnectBackoff,
    topology::{Topology, TopologyError},
};
use crate::{random::Random, state::ConnectionState, telemetry::metrics::ConnectionMetrics};

/// A task that needs a connection to the broker.
pub(crate) trait ConnectedTask: Send + Sync {
    /// A connection that is ready for the task.
    type Ready: Send + Sync;

    /// The name of the connection, as in the metrics.
    fn name(&self) -> &'static str;

    fn state(&self) -> &ConnectionState;

    fn metrics(&self) -> &ConnectionMetrics;

    /// Connects once and makes the connection ready.
    fn open(&self) -> impl Future<Output = Result<Self::Ready, TopologyError>> + Send;

    /// Works on the connection until a stop is requested (`Ok`) or the connection fails.
    fn run(&mut self, ready: &Self::Ready) -> impl Future<Output = Result<(), TopologyError>> + Send;

    fn close(&self, ready: Self::Ready) -> impl Future<Output = ()> + Send;

    /// Resolves when a stop is requested.
    fn stopped(&self) -> impl Future<Output = ()> + Send;

    /// A number that grows whenever a connection has been of use.
    fn progress(&self) -> u64 {
        0
    }

    /// Logs that the connection is established after an `outage`.
    fn log_connected(&self, outage: Duration);

    /// True if the task must end because its first connection failed with `error`.
    fn gives_up(&self, _error: &TopologyError) -> bool {
        false
    }

    /// Prepares for the next connection. Returns true if a message broke this one and will break the next ones, until
    /// the broker has counted enough deliveries of it.
    fn broken(&mut self, _broken: &Broken<'_>) -> bool {
        false
    }
}

/// A connection that failed.
#[derive(Debug)]
pub(crate) struct Broken<'a> {
    /// The connection had been established and ready.
    pub(crate) established: bool,
    /// The task made progress since the previous connection failed.
    pub(crate) worked: bool,
    pub(crate) error: &'a TopologyError,
}

/// Runs `task` on one connection after the other, until a stop is requested. Waits between two connections grow up to
/// `wait_max`, spread by `random`.
///
/// # Errors
/// The error for which the task gives up.
pub(crate) async fn supervise<T: ConnectedTask>(
    task: &mut T,
    wait_max: Duration,
    random: Random,
) -> Result<(), TopologyError> {
    let mut backoff = ReconnectBackoff::new(wait_max, random);
    let mut connected_before = false;
    loop {
        let progress = task.progress();
        let opened = tokio::select! {
            biased;
            opened = task.open() => opened,
            () = task.stopped() => return Ok(()),
        };
        let established = opened.is_ok();
        let error = match opened {
            Ok(ready) => {
                connected_before = true;
                if let Some(outage) = backoff.connected() {
                    task.log_connected(outage);
                }
                match run_on(task, ready).await {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                }
            }
            Err(error) => {
                task.metrics().failed();
                if !connected_before && task.gives_up(&error) {
                    return Err(error);
                }
                error
            }
        };
        task.state().down(error.to_string());
        let worked = task.progress() > progress;
        let is_new = backoff.failed(worked, error.reason());
        let unreadable = task.broken(&Broken { established, worked, error: &error });
        let wait = if unreadable { backoff.wait_after_unreadable() } else { backoff.wait() };
        if is_new {
            log_broken(task.name(), established, &error, wait);
        }
        tokio::select! {
            biased;
            () = sleep(wait) => {}
            () = task.stopped() => return Ok(()),
        }
    }
}

async fn run_on<T: ConnectedTask>(task: &mut T, ready: T::Ready) -> Result<(), TopologyError> {
    let up = task.state().up();
    task.metrics().established();
    let ended = task.run(&ready).await;
    drop(up);
    task.close(ready).await;
    ended
}

fn log_broken(connection: &str, established: bool, error: &TopologyError, wait: Duration) {
    let retry_in_ms = wait.as_secs_f64() * 1e3;
    if established {
        warn!(connection, %error, retry_in_ms, "lost connection to broker; reconnecting");
    } else {
        warn!(connection, %error, retry_in_ms, "could not connect to broker; retrying");
    }
}

/// Connects once, with the topology declared or verified. `purpose` shows in the broker's list of connections.
pub(crate) async fn connect<B: Broker>(
    broker: &B,
    topology: &Topology,
    purpose: &str,
) -> Result<B::Connection, TopologyError> {
    let connection = broker.connect(purpose).await?;
    match topology.ensure(&connection, broker.limits().timeout).await {
        Ok(()) => Ok(connection),
        Err(error) => {
            // Dropping the connection is not enough: lapin keeps it open for replies that it still awaits.
            connection.close().await;
            Err(error)
        }
    }
}

/// Closes `connection`. If it was still open, a part of the topology may be missing, so the next connection declares or
/// verifies it again.
pub(crate) async fn disconnect(connection: &impl BrokerConnection, topology: &Topology) {
    if !connection.is_gone() {
        topology.invalidate();
    }
    connection.close().await;
}

#[cfg(test)]
mod tests;
