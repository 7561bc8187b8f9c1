//! Metrics for Prometheus. One value is made at the start and handed to whoever has something to tell; each part
//! has methods of its own, which take members of closed sets, so that no label can grow without bound.
//!
//! Every series is there from the start, at zero. `config/metrics.md` lists them, generated from here.

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
use labels::{Connection, Stage, Upstream};
use ledger::LedgerFamilies;
use stage::StageFamilies;
use upstream::UpstreamFamilies;

/// Upper bounds in seconds, from OpenTelemetry's conventions for messaging and HTTP, up to the limits of a call.
const CALL_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 30.0];
/// The same, up to the longest that an event may wait in hold queues (`retry.total`) and for an outage to end.
const EVENT_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0,
    300.0, 600.0, 1800.0, 3600.0,
];
/// The same, from what a broker or a disk near by needs.
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
    /// All series at zero, for hold queues of these `delays`.
    ///
    /// # Errors
    /// None that is known: names and labels are fixed; a caller treats one as a defect.
    pub fn new(delays: &[Duration]) -> Result<Self, Error> {
        let registry = Registry::new();
        let families = Families(&registry);
        let rungs: Vec<_> = delays.iter().map(|delay| stage::rung(*delay)).collect();
        let stages = Arc::new(StageFamilies::new(&families, &rungs)?);
        let broker = Arc::new(BrokerFamilies::new(&families)?);
        let upstreams = Arc::new(UpstreamFamilies::new(&families)?);
        let ledger = Arc::new(LedgerFamilies::new(&families)?);
        let version = ("version", vec![env!("CARGO_PKG_VERSION")]);
        let info: IntGaugeVec =
            families.gauges("build_info", "Always 1; says which build runs.", &[version])?;
        info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Self { registry, stages, broker, upstreams, ledger })
    }

    /// For `stage`.
    #[must_use]
    pub fn stage(&self, stage: Stage) -> StageMetrics {
        let upstream = Upstream::of(stage);
        StageMetrics {
            stage,
            families: Arc::clone(&self.stages),
            connection: self.connection(StageMetrics::connection_of(stage)),
            breaker: BreakerMetrics { upstream, families: Arc::clone(&self.upstreams) },
        }
    }

    /// For calls of `upstream`.
    #[must_use]
    pub fn upstream(&self, upstream: Upstream) -> UpstreamMetrics {
        UpstreamMetrics { upstream, families: Arc::clone(&self.upstreams) }
    }

    /// For the publisher.
    #[must_use]
    pub fn publishing(&self) -> PublishMetrics {
        PublishMetrics {
            connection: self.connection(Connection::Publish),
            families: Arc::clone(&self.broker),
        }
    }

    /// For the ledger, as `stage` uses it.
    #[must_use]
    pub fn ledger(&self, stage: Stage) -> LedgerMetrics {
        LedgerMetrics { stage, families: Arc::clone(&self.ledger) }
    }

    fn connection(&self, connection: Connection) -> ConnectionMetrics {
        ConnectionMetrics { connection, families: Arc::clone(&self.broker) }
    }

    /// All of it in Prometheus's text format, version 0.0.4.
    ///
    /// # Errors
    /// None that is known.
    pub fn render(&self) -> Result<String, Error> {
        self.stages.refresh();
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
