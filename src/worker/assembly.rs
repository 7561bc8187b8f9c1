//! Assembles the consumers of the stages from the configuration.

use std::sync::Arc;

use futures_util::{
    FutureExt,
    future::{BoxFuture, try_join_all},
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{WorkerError, supervise::supervise};
use crate::{
    broker::{
        connection::Connector,
        consumer::{Consumer, ConsumerParts},
        port::Broker,
        publisher::Publisher,
        settle::Settler,
        topology::{Topology, TopologyError},
        tries::Tries,
    },
    config::{ConnectMode, Loaded},
    contract::{BODY_BYTES_MAX, link, receipt, stage::StageDef, start_session::EXCHANGE},
    ingress::{
        Ingress, IngressError, IngressSettings, ReceiptSettings,
        outlet::Outlet,
        receipts::{Receipts, fallback::SmsFallback},
        sessions::StartEvents,
    },
    instant_connect::InstantConnectClient,
    ledger::Ledger,
    random::Random,
    stages::{
        self, Deduplicator, HostRules, HostStage, LinkStage, OnFailure, SmsSender, Stage, WhatsappSender,
    },
    state::WorkerState,
    telemetry::{metrics::Metrics, traces::Tracer},
    upstream::Upstream,
    webex_connect::receipt::RECEIPT_BYTES_MAX,
    webex_messages::WebexClient,
};

/// A consumer with its stage, whichever it is.
trait StageRunner<B>: Send + Sync {
    /// Consumes until a stop is requested and the work in progress is done.
    fn run<'a>(&'a self, broker: &'a B, topology: &'a Topology) -> BoxFuture<'a, Result<(), TopologyError>>;
    /// Aborts the work in progress.
    fn abort(&self);
    /// Number of deliveries in progress.
    fn in_progress(&self) -> usize;
}

impl<B: Broker, S: Stage> StageRunner<B> for Arc<Consumer<S>> {
    fn run<'a>(&'a self, broker: &'a B, topology: &'a Topology) -> BoxFuture<'a, Result<(), TopologyError>> {
        supervise(broker, topology, self).boxed()
    }

    fn abort(&self) {
        Consumer::abort(self);
    }

    fn in_progress(&self) -> usize {
        Consumer::in_progress(self)
    }
}

/// The consumers of the stages that run in this worker.
pub(super) struct Consumers<B>(Vec<Box<dyn StageRunner<B>>>);

impl<B: Broker> Consumers<B> {
    /// Consumes until a stop is requested and the work in progress is done.
    pub(super) async fn run(&self, broker: &B, topology: &Topology) -> Result<(), TopologyError> {
        try_join_all(self.0.iter().map(|runner| runner.run(broker, topology))).await.map(drop)
    }

    /// Aborts the work in progress.
    pub(super) fn abort(&self) {
        self.0.iter().for_each(|runner| runner.abort());
    }

    pub(super) fn in_progress(&self) -> usize {
        self.0.iter().map(|runner| runner.in_progress()).sum()
    }
}

/// Builds the consumer of a stage.
type Build = fn(&Parts<'_>) -> Result<Box<dyn StageRunner<Connector>>, WorkerError>;

/// Every stage of the table, and how it is built.
const BUILDERS: &[(&StageDef, Build)] = &[
    (&stages::LINK, |parts| Ok(parts.consumer(parts.link_stage()?))),
    (&stages::HOST, |parts| Ok(parts.consumer(parts.host_stage()?))),
    (&stages::SMS, |parts| match parts.loaded.config.webex_connect.mode {
        ConnectMode::Messages => Ok(parts.consumer(parts.sms_stage()?)),
        ConnectMode::Event => Ok(parts.consumer(parts.event_stage::<SmsSender>()?)),
    }),
    (&stages::WHATSAPP, |parts| match parts.loaded.config.webex_connect.mode {
        ConnectMode::Messages => Ok(parts.consumer(parts.whatsapp_stage()?)),
        ConnectMode::Event => Ok(parts.consumer(parts.event_stage::<WhatsappSender>()?)),
    }),
];

/// Components that the consumers share.
pub(super) struct Parts<'a> {
    pub(super) loaded: &'a Loaded,
    pub(super) state: &'a WorkerState,
    pub(super) metrics: &'a Metrics,
    pub(super) ledger: &'a Ledger,
    pub(super) random: &'a Random,
    pub(super) tracer: &'a Tracer,
    pub(super) topology: &'a Topology,
    pub(super) publisher: &'a Publisher,
    pub(super) tries: &'a Tries,
    pub(super) stop: &'a CancellationToken,
}

impl Parts<'_> {
    /// The consumers of the stages `run`.
    pub(super) fn consumers(&self, run: &[&StageDef]) -> Result<Consumers<Connector>, WorkerError> {
        let builders = BUILDERS.iter().filter(|(stage, _)| run.iter().any(|run| run.name == stage.name));
        builders.map(|(_, build)| build(self)).collect::<Result<Vec<_>, _>>().map(Consumers)
    }

    fn consumer<S: Stage>(&self, stage: S) -> Box<dyn StageRunner<Connector>> {
        let config = &self.loaded.config;
        let queue = self.topology.queue(S::DEF.queue);
        let settler = Settler {
            publisher: self.publisher.clone(),
            tracer: self.tracer.clone(),
            topology: self.topology.clone(),
            queue: queue.clone(),
            limit: config.amqp.timeout.get(),
            retry: config.retry.clone(),
            clock: self.ledger.clock().clone(),
            random: self.random.clone(),
            metrics: self.metrics.stage(S::DEF),
        };
        Box::new(Arc::new(Consumer::new(ConsumerParts {
            stage,
            queue,
            settler,
            limits: config.consumer_limits(),
            tries: self.tries.clone(),
            state: self.state.stage(S::DEF.name),
            metrics: self.metrics.stage(S::DEF),
            stop: self.stop.clone(),
        })))
    }

    /// The ingress, bound to its address.
    pub(super) fn ingress(&self, mut settings: IngressSettings) -> Result<Ingress, IngressError> {
        let receipts = settings.receipts.take().map(|receipts| self.receipts(receipts));
        Ingress::bind(settings, self.start_events(), receipts, self.stop.clone())
    }

    /// Makes start events of requests to the ingress.
    fn start_events(&self) -> StartEvents {
        let config = &self.loaded.config;
        let room_bytes = config.ingress.in_flight_max.size() * BODY_BYTES_MAX;
        StartEvents {
            outlet: self.outlet(EXCHANGE, room_bytes),
            ledger: self.ledger.clone(),
            clock: self.ledger.clock().clone(),
            random: self.random.clone(),
            without_ledger: config.ledger.on_failure == OnFailure::Continue,
            rules: config.session_rules(),
            margin: config.ledger.retention().margin,
            tracer: self.tracer.clone(),
            metrics: self.metrics.ingress(),
        }
    }

    /// Takes receipts at the ingress.
    fn receipts(&self, settings: ReceiptSettings) -> Receipts {
        let config = &self.loaded.config;
        // Their senders are known only after the body, so receipts get half of the requests.
        let in_progress = (config.ingress.in_flight_max.size() / 2).max(1);
        Receipts {
            secrets: settings.secrets,
            keys: settings.keys,
            in_progress: Semaphore::new(in_progress),
            // A receipt repeats parts of its event, so it is not larger.
            outlet: self.outlet(receipt::EXCHANGE, in_progress * RECEIPT_BYTES_MAX + 2 * BODY_BYTES_MAX),
            by_sms: config.falls_back_to_sms().then(|| {
                let outlet =
                    self.outlet(link::EXCHANGE, in_progress * RECEIPT_BYTES_MAX + 2 * BODY_BYTES_MAX);
                SmsFallback::new(
                    outlet,
                    self.ledger.clone(),
                    self.random.clone(),
                    self.tracer.clone(),
                    self.metrics.receipts(),
                    self.stop.clone(),
                )
            }),
            ledger: self.ledger.clone(),
            clock: self.ledger.clock().clone(),
            random: self.random.clone(),
            without_ledger: config.ledger.on_failure == OnFailure::Continue,
            tracer: self.tracer.clone(),
            metrics: self.metrics.receipts(),
        }
    }

    /// The ingress's way to `exchange`, with room for bodies of `room_bytes` in all.
    fn outlet(&self, exchange: &str, room_bytes: usize) -> Outlet {
        Outlet {
            publisher: self.publisher.clone(),
            publishing: self.state.publishing().clone(),
            room: Arc::new(Semaphore::new(room_bytes)),
            exchange: self.topology.exchange(exchange),
        }
    }

    fn link_stage(&self) -> Result<LinkStage, WorkerError> {
        let section = &self.loaded.config.instant_connect;
        let url = self.loaded.joseencrypt_url();
        let api = stages::LINK.upstream;
        let upstream = Upstream::new(
            api.title,
            &url,
            self.loaded.instant_connect_token()?,
            section.limits(),
            &self.loaded.network()?,
            self.metrics.upstream(api),
        )?;
        let upstream = self.shared(upstream, api.key);
        let client = InstantConnectClient::new(upstream, url, section.options(), section.link_rules());
        let rules = self.loaded.config.session_rules();
        Ok(LinkStage::new(client, rules, self.deduplicator(&stages::LINK)))
    }

    fn host_stage(&self) -> Result<HostStage, WorkerError> {
        let config = &self.loaded.config;
        let url = self.loaded.messages_url();
        let api = stages::HOST.upstream;
        let upstream = Upstream::new(
            api.title,
            &url,
            self.loaded.hosts_token()?,
            config.hosts.limits(),
            &self.loaded.network()?,
            self.metrics.upstream(api),
        )?;
        let client = WebexClient::new(self.shared(upstream, api.key), url);
        let rules =
            HostRules { links: config.instant_connect.link_rules(), experts: config.hosts.allowed.clone() };
        Ok(HostStage::new(client, rules, self.deduplicator(&stages::HOST)))
    }

    pub(super) fn shared(&self, upstream: Upstream, key: &str) -> Upstream {
        upstream.traced(self.tracer.clone()).sharing_rate_limits_in(self.ledger.clone(), key)
    }

    pub(super) fn deduplicator(&self, stage: &'static StageDef) -> Deduplicator {
        let section = &self.loaded.config.ledger;
        let metrics = self.metrics.ledger(stage);
        let (ledger, random) = (self.ledger.clone(), self.random.clone());
        Deduplicator::new(ledger, section.on_failure, section.retention(), metrics, random)
            .stopped_by(self.stop.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_of_the_table_can_be_built() {
        let built: Vec<_> = BUILDERS.iter().map(|(stage, _)| *stage).collect();
        assert_eq!(built, stages::ALL);
    }
}
