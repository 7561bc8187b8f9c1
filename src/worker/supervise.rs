//! Keeps each consumer connected and consuming, until a shutdown is requested.

use std::sync::Arc;

use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::{
    broker::{
        connection::{BrokerError, Connected, Connector, close, gone},
        consumer::{ConsumeMode, Consumer},
        reconnect::ReconnectBackoff,
        topology::{Topology, TopologyError},
        watchdog::Watchdog,
    },
    stages::Stage,
};

/// History of connection failures, which may be caused by a message.
#[derive(Debug, Default)]
struct FailureHistory {
    /// Consecutive connections that broke before anything was settled.
    without_progress: u32,
    /// The last one broke because of unreadable data from the broker.
    unreadable: bool,
}

impl FailureHistory {
    /// Records a broken connection. A connection that was never `established` delivered no message.
    fn broken(&mut self, established: bool, unreadable: bool, settled: bool) {
        if established {
            self.without_progress = if settled { 0 } else { self.without_progress.saturating_add(1) };
            self.unreadable = unreadable;
        }
    }

    fn mode(&self) -> ConsumeMode {
        match self.without_progress {
            _ if self.unreadable => ConsumeMode::OneAtATime,
            0 => ConsumeMode::Unlimited,
            1 => ConsumeMode::RampUp,
            _ => ConsumeMode::OneAtATime,
        }
    }
}

/// Keeps a connection for one consumer, and reconnects when it breaks. Each consumer has its own connection. A
/// message that breaks it, such as an unreadable one, must not count against the other consumer's messages.
pub(super) async fn supervise<S: Stage>(
    connector: &Connector,
    topology: &Topology,
    consumer: &Arc<Consumer<S>>,
) -> Result<(), TopologyError> {
    let mut backoff = ReconnectBackoff::new(connector.reconnect_max);
    let mut connected_before = false;
    let mut failures = FailureHistory::default();
    while !consumer.is_stopped() {
        let settled = consumer.settled();
        let opened = tokio::select! {
            opened = open(connector, topology, S::DEF.name) => opened,
            () = consumer.stopped() => break,
        };
        let established = opened.is_ok();
        if !established {
            consumer.metrics().connection.failed();
            // The queue lengths are outdated from now on and would keep alerts firing. After an immediate reconnect
            // they stay until the next check, so an alert for waiting messages does not restart its time.
            consumer.metrics().forget_queued();
        }
        let error = match opened {
            Ok(connection) => {
                if backoff.connected().is_some() {
                    info!(stage = S::DEF.name, "connected to broker; consuming");
                }
                connected_before = true;
                match consume_on(&connection, connector, topology, consumer).await {
                    Ok(()) => return Ok(()),
                    Err(error) => TopologyError::Broker(error),
                }
            }
            Err(TopologyError::Mismatch(problem)) if !connected_before => {
                error!(problem, "broker topology does not match the configuration; exiting");
                return Err(TopologyError::Mismatch(problem));
            }
            Err(error) => error,
        };
        consumer.metrics().connection.down(error.to_string());
        let is_new = backoff.failed(consumer.settled() > settled, error.reason());
        // A message that lapin can't read ends the connection each time, until the broker's delivery limit
        // dead-letters it. Consume one at a time so that only the unreadable message is charged a delivery, and
        // reconnect fast so that this ends soon. No message can arrive before a connection is established.
        let unreadable =
            established && matches!(&error, TopologyError::Broker(error) if error.is_protocol_error());
        let wait = if unreadable { backoff.wait_after_unreadable() } else { backoff.wait() };
        if is_new {
            let retry_in_ms = wait.as_secs_f64() * 1e3;
            warn!(stage = S::DEF.name, %error, retry_in_ms, "could not connect to broker; retrying");
        }
        failures.broken(established, unreadable, consumer.settled() > settled);
        consumer.set_next_mode(failures.mode());
        tokio::select! {
            () = sleep(wait) => {}
            () = consumer.stopped() => {}
        }
    }
    consumer.idle().await;
    Ok(())
}

/// Consumes on `connection` until it breaks (`Err`), or until a stop is requested and the work in progress is done.
async fn consume_on<S: Stage>(
    connection: &Connected,
    connector: &Connector,
    topology: &Topology,
    consumer: &Arc<Consumer<S>>,
) -> Result<(), BrokerError> {
    let shown = consumer.metrics().connection.up();
    let watchdog =
        Watchdog::new(connection, topology, consumer.queue(), consumer.metrics(), connector.timeout);
    let ended = tokio::select! {
        biased;
        result = consumer.consume((&**connection).into()) => result,
        error = gone("consume", connection) => Err(error),
        error = watchdog.watch(connector) => Err(error),
    };
    if ended.is_ok() {
        consumer.idle().await;
    }
    if connection.status().connected() {
        topology.invalidate();
    }
    close(connection).await;
    drop(shown);
    ended
}

async fn open(connector: &Connector, topology: &Topology, stage: &str) -> Result<Connected, TopologyError> {
    let connection = connector.connect(&format!("consume {stage}")).await.map_err(TopologyError::Broker)?;
    match topology.ensure(&connection, connector.timeout).await {
        Ok(()) => Ok(connection),
        Err(error) => {
            // Dropping the connection is not enough: lapin keeps it open for replies that it still awaits.
            close(&connection).await;
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consume_mode_is_reduced_after_unreadable_data_or_no_progress() {
        let mut failures = FailureHistory::default();
        let mut after = |established, unreadable, settled| {
            failures.broken(established, unreadable, settled);
            failures.mode()
        };
        assert_eq!(after(true, false, true), ConsumeMode::Unlimited);
        assert_eq!(after(true, false, false), ConsumeMode::RampUp);
        assert_eq!(
            after(false, true, false),
            ConsumeMode::RampUp,
            "without a connection there was no message"
        );
        assert_eq!(after(true, false, false), ConsumeMode::OneAtATime);
        assert_eq!(after(true, false, true), ConsumeMode::Unlimited);
        assert_eq!(after(true, true, true), ConsumeMode::OneAtATime);
    }
}
