//! The publishing task: keeps its connection, and publishes on one channel after the other.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::info;

use super::{
    PublishJobs,
    refusals::Refusals,
    session::{End, PublishSession},
};
use crate::{
    broker::{
        connection::{BrokerError, within},
        port::{Broker, BrokerChannel, BrokerConnection},
        supervisor::{self, ConnectedTask},
        topology::{Topology, TopologyError},
    },
    state::{ConnectionState, PublishState},
    telemetry::metrics::{ConnectionMetrics, PublishMetrics},
};

/// The publishing task.
pub(super) struct PublishTask<B> {
    pub(super) broker: Arc<B>,
    pub(super) topology: Topology,
    pub(super) jobs: PublishJobs,
    pub(super) state: PublishState,
    pub(super) metrics: PublishMetrics,
}

impl<B: Broker> ConnectedTask for PublishTask<B> {
    type Ready = (B::Connection, <B::Connection as BrokerConnection>::Channel);

    fn name(&self) -> &'static str {
        "publish"
    }

    fn state(&self) -> &ConnectionState {
        &self.state.connection
    }

    fn metrics(&self) -> &ConnectionMetrics {
        &self.metrics.connection
    }

    async fn open(&self) -> Result<Self::Ready, TopologyError> {
        let connection = supervisor::connect(&*self.broker, &self.topology, "publish").await?;
        match open_channel(&connection, self.broker.limits().timeout).await {
            Ok(channel) => Ok((connection, channel)),
            Err(error) => {
                // Dropping the connection is not enough: lapin keeps it open for replies that it still awaits.
                connection.close().await;
                Err(error.into())
            }
        }
    }

    /// Publishes on successive channels of the connection, until all `Publisher` handles are dropped or an error
    /// occurs.
    async fn run(&mut self, (connection, channel): &Self::Ready) -> Result<(), TopologyError> {
        let (limit, mut channel, mut refusals) =
            (self.broker.limits().timeout, channel.clone(), Refusals::default());
        loop {
            let session = PublishSession::new(
                channel.clone(),
                connection,
                &self.topology,
                limit,
                &self.state,
                &self.metrics,
                &mut refusals,
            );
            match session.run(&mut self.jobs).await? {
                End::Abandoned => return Ok(()),
                End::Stale => {}
            }
            within("close channel", limit, connection, channel.close()).await?;
            self.topology.ensure(connection, limit).await?;
            channel = open_channel(connection, limit).await?;
        }
    }

    async fn close(&self, (connection, _): Self::Ready) {
        supervisor::disconnect(&connection, &self.topology).await;
    }

    /// Resolves when all `Publisher` handles are dropped.
    async fn stopped(&self) {
        while !(self.jobs.sender_strong_count() == 0 && self.jobs.is_empty()) {
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn gives_up(&self, error: &TopologyError) -> bool {
        matches!(error, TopologyError::Mismatch(_))
    }

    fn log_connected(&self, outage: Duration) {
        if !outage.is_zero() {
            info!(after_ms = outage.as_secs_f64() * 1e3, "publisher reconnected");
        }
    }
}

/// Opens a channel with confirms.
async fn open_channel<C: BrokerConnection>(
    connection: &C,
    limit: Duration,
) -> Result<C::Channel, BrokerError> {
    let channel = within("open channel", limit, connection, connection.open_channel()).await?;
    within("select confirms", limit, connection, channel.select_confirms()).await?;
    Ok(channel)
}
