//! Metrics for Prometheus. One [`Metrics`] value is created at startup and shared. The methods of its parts take label
//! values from closed sets, so no label can grow without bound.
//!
//! Every series exists from the start, at zero. `config/metrics.md` lists them and is generated from here.

mod connection;
mod families;
mod ingress;
pub mod labels;
mod ledger;
mod list;
mod receipts;
mod stage;
mod upstream;

use std::{sync::Arc, time::Duration};

use prometheus::{Error, IntGaugeVec, Registry, TextEncoder};

pub use connection::{ConnectionMetrics, PublishMetrics};
pub use ingress::{IngressMetrics, RequestTimer};
pub use ledger::LedgerMetrics;
pub use list::list;
pub use receipts::ReceiptMetrics;
pub use stage::{StageMetrics, WorkTimer};
pub use upstream::{BreakerMetrics, CallTimer, UpstreamMetrics};

use connection::BrokerFamilies;
use families::{Families, Recorder};
use ingress::IngressFamilies;
use labels::PUBLISH;
use ledger::LedgerFamilies;
use receipts::ReceiptFamilies;
use stage::StageFamilies;
use upstream::UpstreamFamilies;

use crate::{
    contract::stage::{StageDef, UpstreamDef},
    state::WorkerState,
};

/// Upper bounds in seconds, from OpenTelemetry's conventions for messaging and HTTP, up to the limits of a call.
const CALL_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 30.0];
/// The same bounds, extended to the longest wait in delay queues (`retry.total`) and to outages.
const EVENT_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0,
    300.0, 600.0, 1800.0, 3600.0,
];
/// The same bounds, extended down to the latency of a nearby broker or disk.
const LOCAL_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    30.0,
];

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The role of a worker that runs everything.
const ROLE: &str = "all";

/// All metrics of one worker; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    table: Arc<[&'static StageDef]>,
    registry: Registry,
    info: Option<IntGaugeVec>,
    stages: Recorder<StageFamilies>,
    broker: Recorder<BrokerFamilies>,
    upstreams: Recorder<UpstreamFamilies>,
    ledger: Recorder<LedgerFamilies>,
    ingress: Recorder<IngressFamilies>,
    receipts: Recorder<ReceiptFamilies>,
}

impl Metrics {
    /// Creates all series at zero, for the stages of `table` and delay queues of these `delays`.
    ///
    /// # Errors
    /// None known, because names and labels are fixed; a caller treats an error as a bug.
    pub fn new(table: &[&'static StageDef], delays: &[Duration]) -> Result<Self, Error> {
        let registry = Registry::new();
        let families = Families(&registry);
        let rungs: Vec<_> = delays.iter().map(|delay| stage::rung(*delay)).collect();
        let broker = Recorder::new(BrokerFamilies::new(&families, table)?);
        let upstreams = Recorder::new(UpstreamFamilies::new(&families, table)?);
        let ledger = Recorder::new(LedgerFamilies::new(&families, table)?);
        let ingress = Recorder::new(IngressFamilies::new(&families)?);
        let receipts = Recorder::new(ReceiptFamilies::new(&families)?);
        let stages = Recorder::new(StageFamilies::new(&families, table, &rungs)?);
        let info: IntGaugeVec = families.gauges(
            "build_info",
            "Always 1; the labels name the running build, and the role of `run`: all, stages or ingress.",
            &[("version", vec![VERSION]), ("role", vec![ROLE])],
        )?;
        info.with_label_values(&[VERSION, ROLE]).set(1);
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let info = Some(info);
        Ok(Self { table: table.into(), registry, info, stages, broker, upstreams, ledger, ingress, receipts })
    }

    /// Metrics that record nothing, for commands that serve none.
    #[must_use]
    pub fn off() -> Self {
        Self {
            table: Arc::default(),
            registry: Registry::new(),
            info: None,
            stages: Recorder::off(),
            broker: Recorder::off(),
            upstreams: Recorder::off(),
            ledger: Recorder::off(),
            ingress: Recorder::off(),
            receipts: Recorder::off(),
        }
    }

    /// Names the role of `run`, if it is not `all`. Rules must tell workers from ingresses: the latter process no events.
    pub fn set_role(&self, role: &'static str) {
        if let Some(info) = &self.info {
            info.reset();
            info.with_label_values(&[VERSION, role]).set(1);
        }
    }

    /// Metrics of `stage`.
    #[must_use]
    pub fn stage(&self, stage: &'static StageDef) -> StageMetrics {
        let upstream = stage.upstream.label;
        StageMetrics {
            stage,
            families: self.stages.clone(),
            connection: self.connection(stage.name),
            breaker: BreakerMetrics { upstream, families: self.upstreams.clone() },
        }
    }

    /// Metrics of the calls of `upstream`.
    #[must_use]
    pub fn upstream(&self, upstream: UpstreamDef) -> UpstreamMetrics {
        UpstreamMetrics { upstream: upstream.label, families: self.upstreams.clone() }
    }

    /// Metrics of the publisher.
    #[must_use]
    pub fn publishing(&self) -> PublishMetrics {
        PublishMetrics { connection: self.connection(PUBLISH), families: self.broker.clone() }
    }

    /// Metrics of the ingress.
    #[must_use]
    pub fn ingress(&self) -> IngressMetrics {
        IngressMetrics { families: self.ingress.clone(), ledger: self.ledger.clone() }
    }

    /// Metrics of receipts.
    #[must_use]
    pub fn receipts(&self) -> ReceiptMetrics {
        ReceiptMetrics { families: self.receipts.clone(), ledger: self.ledger.clone() }
    }

    /// Sets the number of entries in the ledger.
    pub fn set_ledger_entries(&self, entries: u64) {
        self.ledger.record(|families| families.set_entries(entries));
    }

    /// Metrics of the ledger for `stage`.
    #[must_use]
    pub fn ledger(&self, stage: &'static StageDef) -> LedgerMetrics {
        LedgerMetrics { stage, families: self.ledger.clone() }
    }

    fn connection(&self, connection: &'static str) -> ConnectionMetrics {
        ConnectionMetrics { connection, families: self.broker.clone() }
    }

    /// Sets the gauges of connections, consumers and breakers from `state`.
    pub(crate) fn show(&self, state: &WorkerState) {
        self.stages.record(|families| families.show(state, &self.table));
        self.broker.record(|families| families.show(state, &self.table));
        self.upstreams.record(|families| families.show(state, &self.table));
    }

    /// Renders all metrics in Prometheus's text format, version 0.0.4.
    ///
    /// # Errors
    /// None known.
    pub fn render(&self) -> Result<String, Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
