//! Metrics for Prometheus. One [`Metrics`] value is created at start-up and shared. The methods of its parts take label
//! values from closed sets, so no label can grow without bound.
//!
//! Every series exists from the start, at zero. `config/metrics.md` lists them and is generated from here.

mod connection;
mod families;
pub mod labels;
mod ledger;
mod list;
mod stage;
mod upstream;

use std::{sync::Arc, time::Duration};

use prometheus::{Error, IntGaugeVec, Registry, TextEncoder};

pub use connection::{ConnectionMetrics, PublishMetrics, Up};
pub use ledger::LedgerMetrics;
pub use list::list;
pub use stage::{StageMetrics, WorkTimer};
pub use upstream::{BreakerMetrics, CallTimer, UpstreamMetrics};

use connection::BrokerFamilies;
use families::Families;
use labels::PUBLISH;
use ledger::LedgerFamilies;
use stage::StageFamilies;
use upstream::UpstreamFamilies;

use crate::contract::stage::{StageDef, UpstreamDef};

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

/// All metrics of one worker; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    stages: Arc<StageFamilies>,
    broker: Arc<BrokerFamilies>,
    upstreams: Arc<UpstreamFamilies>,
    ledger: Arc<LedgerFamilies>,
}

impl Metrics {
    /// Creates all series at zero, for these `stages` and delay queues of these `delays`.
    ///
    /// # Errors
    /// None known, because names and labels are fixed; a caller treats an error as a bug.
    pub fn new(stages: &[&'static StageDef], delays: &[Duration]) -> Result<Self, Error> {
        let registry = Registry::new();
        let families = Families(&registry);
        let rungs: Vec<_> = delays.iter().map(|delay| stage::rung(*delay)).collect();
        let broker = Arc::new(BrokerFamilies::new(&families, stages)?);
        let upstreams = Arc::new(UpstreamFamilies::new(&families, stages)?);
        let ledger = Arc::new(LedgerFamilies::new(&families, stages)?);
        let stages = Arc::new(StageFamilies::new(&families, stages, &rungs)?);
        let version = ("version", vec![env!("CARGO_PKG_VERSION")]);
        let info: IntGaugeVec = families.gauges(
            "build_info",
            "Always 1; the label version names the running build.",
            &[version],
        )?;
        info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Self { registry, stages, broker, upstreams, ledger })
    }

    /// Metrics of `stage`.
    #[must_use]
    pub fn stage(&self, stage: &'static StageDef) -> StageMetrics {
        let upstream = stage.upstream.label;
        StageMetrics {
            stage,
            families: Arc::clone(&self.stages),
            connection: self.connection(stage.name),
            breaker: BreakerMetrics { upstream, families: Arc::clone(&self.upstreams) },
        }
    }

    /// Metrics of the calls of `upstream`.
    #[must_use]
    pub fn upstream(&self, upstream: UpstreamDef) -> UpstreamMetrics {
        UpstreamMetrics { upstream: upstream.label, families: Arc::clone(&self.upstreams) }
    }

    /// Metrics of the publisher.
    #[must_use]
    pub fn publishing(&self) -> PublishMetrics {
        PublishMetrics { connection: self.connection(PUBLISH), families: Arc::clone(&self.broker) }
    }

    /// Sets the number of entries in the ledger.
    pub fn set_ledger_entries(&self, entries: u64) {
        self.ledger.set_entries(entries);
    }

    /// Metrics of the ledger for `stage`.
    #[must_use]
    pub fn ledger(&self, stage: &'static StageDef) -> LedgerMetrics {
        LedgerMetrics { stage, families: Arc::clone(&self.ledger) }
    }

    fn connection(&self, connection: &'static str) -> ConnectionMetrics {
        ConnectionMetrics { connection, families: Arc::clone(&self.broker) }
    }

    /// Renders all metrics in Prometheus's text format, version 0.0.4.
    ///
    /// # Errors
    /// None known.
    pub fn render(&self) -> Result<String, Error> {
        self.stages.refresh();
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
