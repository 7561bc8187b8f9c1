//! Keeps each consumer connected and consuming, until a shutdown is requested.

use std::{sync::Arc, time::Duration};

use tracing::info;

use crate::{
    broker::{
        connection::gone,
        consumer::{ConsumeMode, Consumer},
        port::Broker,
        supervisor::{self, Broken, ConnectedTask},
        topology::{Topology, TopologyError},
        watchdog::Watchdog,
    },
    stages::Stage,
    state::ConnectionState,
    telemetry::metrics::ConnectionMetrics,
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
pub async fn supervise<B: Broker, S: Stage>(
    broker: &B,
    topology: &Topology,
    consumer: &Arc<Consumer<S>>,
) -> Result<(), TopologyError> {
    let mut task = ConsumerTask { broker, topology, consumer, failures: FailureHistory::default() };
    supervisor::supervise(&mut task, broker.limits().reconnect_max, consumer.random().clone()).await?;
    consumer.idle().await;
    Ok(())
}

/// A consumer, with the history of its connections.
struct ConsumerTask<'a, B, S> {
    broker: &'a B,
    topology: &'a Topology,
    consumer: &'a Arc<Consumer<S>>,
    failures: FailureHistory,
}

impl<B: Broker, S: Stage> ConnectedTask for ConsumerTask<'_, B, S> {
    type Ready = B::Connection;

    fn name(&self) -> &'static str {
        S::DEF.name
    }

    fn state(&self) -> &ConnectionState {
        &self.consumer.state().connection
    }

    fn metrics(&self) -> &ConnectionMetrics {
        &self.consumer.metrics().connection
    }

    async fn open(&self) -> Result<B::Connection, TopologyError> {
        supervisor::connect(self.broker, self.topology, &format!("consume {}", S::DEF.name)).await
    }

    /// Consumes until the connection breaks, or until a stop is requested and the work in progress is done.
    async fn run(&mut self, connection: &B::Connection) -> Result<(), TopologyError> {
        let (consumer, limits) = (self.consumer, self.broker.limits());
        let watchdog = Watchdog::new(
            connection,
            self.topology,
            consumer.queue(),
            consumer.state(),
            consumer.metrics(),
            limits.timeout,
        );
        tokio::select! {
            biased;
            result = consumer.consume(connection) => result?,
            error = gone("consume", connection) => return Err(error.into()),
            error = watchdog.watch(limits.watch_interval) => return Err(error.into()),
        }
        consumer.idle().await;
        Ok(())
    }

    async fn close(&self, connection: B::Connection) {
        supervisor::disconnect(&connection, self.topology).await;
    }

    async fn stopped(&self) {
        self.consumer.stopped().await;
    }

    fn progress(&self) -> u64 {
        self.consumer.settled()
    }

    fn log_connected(&self, _outage: Duration) {
        info!(connection = S::DEF.name, "connected to broker; consuming");
    }

    fn gives_up(&self, error: &TopologyError) -> bool {
        matches!(error, TopologyError::Mismatch(_))
    }

    /// A message that lapin can't read ends the connection each time, until the broker's delivery limit dead-letters
    /// it. The next connection consumes one at a time so that only the unreadable message is charged a delivery. No
    /// message can arrive before a connection is established.
    fn broken(&mut self, broken: &Broken<'_>) -> bool {
        if !broken.established {
            // The queue lengths are outdated from now on and would keep alerts firing. After an immediate reconnect
            // they stay until the next check, so an alert for waiting messages does not restart its time.
            self.consumer.metrics().forget_queued();
        }
        let unreadable = broken.established
            && matches!(broken.error, TopologyError::Broker(error) if error.is_protocol_error());
        self.failures.broken(broken.established, unreadable, broken.worked);
        self.consumer.set_next_mode(self.failures.mode());
        unreadable
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
