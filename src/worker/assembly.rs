//! Assembles the consumers of both stages from the configuration.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{WorkerError, supervise::supervise};
use crate::{
    broker::{
        connection::Connector,
        consumer::{Consumer, ConsumerParts},
        publisher::Publisher,
        settle::Settler,
        topology::{Topology, TopologyError},
        tries::Tries,
    },
    config::Loaded,
    instant_connect::InstantConnectClient,
    ledger::Ledger,
    stages::{Deduplicator, HostStage, LinkStage, Stage},
    state::WorkerState,
    telemetry::{
        metrics::{Metrics, labels},
        traces::Tracer,
    },
    upstream::Upstream,
    webex::WebexClient,
};

/// The consumers of both stages; stage `host` only if this worker delivers to hosts.
pub(super) struct Consumers {
    link: Arc<Consumer<LinkStage>>,
    host: Option<Arc<Consumer<HostStage>>>,
}

impl Consumers {
    /// Consumes until a stop is requested and the work in progress is done.
    pub(super) async fn run(&self, connector: &Connector, topology: &Topology) -> Result<(), TopologyError> {
        match &self.host {
            Some(host) => {
                let both = tokio::try_join!(
                    supervise(connector, topology, &self.link),
                    supervise(connector, topology, host)
                );
                both.map(drop)
            }
            None => supervise(connector, topology, &self.link).await,
        }
    }

    /// Aborts the work in progress.
    pub(super) fn abort(&self) {
        self.link.abort();
        if let Some(host) = &self.host {
            host.abort();
        }
    }

    pub(super) fn in_progress(&self) -> usize {
        self.link.in_progress() + self.host.as_ref().map_or(0, |host| host.in_progress())
    }
}

/// Components that the consumers share.
pub(super) struct Parts<'a> {
    pub(super) loaded: &'a Loaded,
    pub(super) state: &'a WorkerState,
    pub(super) metrics: &'a Metrics,
    pub(super) ledger: &'a Ledger,
    pub(super) tracer: &'a Tracer,
    pub(super) topology: &'a Topology,
    pub(super) publisher: &'a Publisher,
    pub(super) tries: &'a Tries,
    pub(super) stop: &'a CancellationToken,
}

impl Parts<'_> {
    pub(super) fn consumers(&self) -> Result<Consumers, WorkerError> {
        let link = self.consumer(self.link_stage()?, self.topology.sessions_queue(), labels::StageName::Link);
        let host = if self.loaded.delivers_to_hosts() {
            Some(self.consumer(self.host_stage()?, self.topology.hosts_queue(), labels::StageName::Host))
        } else {
            None
        };
        Ok(Consumers { link, host })
    }

    fn consumer<S: Stage>(&self, stage: S, queue: String, name: labels::StageName) -> Arc<Consumer<S>> {
        let config = &self.loaded.config;
        let settler = Settler::new(
            self.publisher.clone(),
            self.tracer.clone(),
            self.topology,
            queue.clone(),
            config.amqp.timeout.get(),
            config.retry.clone(),
            self.metrics.stage(name),
        );
        Arc::new(Consumer::new(ConsumerParts {
            stage,
            queue,
            settler,
            limits: config.consumer_limits(),
            tries: self.tries.clone(),
            state: self.state.stage(S::NAME),
            metrics: self.metrics.stage(name),
            stop: self.stop.clone(),
        }))
    }

    fn link_stage(&self) -> Result<LinkStage, WorkerError> {
        let section = &self.loaded.config.instant_connect;
        let url = self.loaded.joseencrypt_url();
        let upstream = Upstream::new(
            "Instant Connect",
            &url,
            self.loaded.instant_connect_token()?,
            section.limits(),
            &self.loaded.network()?,
            self.metrics.upstream(labels::UpstreamName::InstantConnect),
        )?;
        let upstream = self.shared(upstream, "instant-connect");
        let client = InstantConnectClient::new(upstream, url, section.options(), section.link_rules());
        let rules = self.loaded.config.session_rules();
        Ok(LinkStage::new(client, rules, self.deduplicator(labels::StageName::Link)))
    }

    fn host_stage(&self) -> Result<HostStage, WorkerError> {
        let config = &self.loaded.config;
        let url = self.loaded.messages_url();
        let upstream = Upstream::new(
            "Webex Messages",
            &url,
            self.loaded.hosts_token()?,
            config.hosts.limits(),
            &self.loaded.network()?,
            self.metrics.upstream(labels::UpstreamName::WebexMessages),
        )?;
        let client = WebexClient::new(self.shared(upstream, "messages"), url);
        let rules = config.instant_connect.link_rules();
        Ok(HostStage::new(client, rules, self.deduplicator(labels::StageName::Host)))
    }

    fn shared(&self, upstream: Upstream, key: &str) -> Upstream {
        upstream.traced(self.tracer.clone()).sharing_rate_limits_in(self.ledger.clone(), key)
    }

    fn deduplicator(&self, stage: labels::StageName) -> Deduplicator {
        let section = &self.loaded.config.ledger;
        let metrics = self.metrics.ledger(stage);
        Deduplicator::new(self.ledger.clone(), section.on_failure, section.retention(), metrics)
    }
}
