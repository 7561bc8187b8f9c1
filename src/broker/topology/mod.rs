//! Exchanges, queues and bindings, named as the contract says.
//!
//! - `plan`: all exchanges, queues and bindings
//! - `declare`: declares and verifies them
//! - `redeclared`: notifies consumers of what was declared again

mod declare;
mod plan;
mod redeclared;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use schemars::JsonSchema;
use serde::Deserialize;

pub use declare::Depth;
pub(crate) use declare::{LEFTOVER_ADVICE, declare_exchange, declare_queue, inequivalent, rival_exists};
pub use plan::{Argument, Binding, Exchange, Queue, TopologyPlan};
use redeclared::Redeclarations;
pub(crate) use redeclared::Redeclared;

use super::{
    connection::{BrokerError, Reason},
    port::BrokerConnection,
};
use crate::{
    contract::stage::{QueueDef, StageDef},
    masking::masked,
    values::{Bounded, Prefix},
};

/// Suffix of the name of a replay queue.
pub(super) const REPLAY: &str = ".replay";

/// Section `topology`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct TopologyConfig {
    /// Prefix of all names.
    pub prefix: Prefix,
    /// Declaration of what is missing.
    pub declare: Declare,
    /// Maximum length of each queue.
    pub queue_length_max: Bounded<1, 2_147_483_647>,
}

/// `topology.declare`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Declare {
    /// Declare missing exchanges, queues and bindings.
    Create,
    /// Verify that exchanges and queues exist.
    Check,
    /// Neither declare nor verify.
    Off,
}

/// The names of this worker's exchanges and queues.
#[derive(Clone, Debug)]
pub struct Topology {
    stages: Arc<[&'static StageDef]>,
    prefix: String,
    declare: Declare,
    queue_length_max: u32,
    delays: Vec<Duration>,
    /// The exchange and the queue of receipts exist.
    receipts: bool,
    /// The broker's topology was declared or verified. Shared by all clones.
    verified: Arc<AtomicBool>,
    redeclared: Redeclarations,
    /// Queues of another `guests.delivery` were looked for. Shared by all clones.
    looked_for_leftovers: Arc<AtomicBool>,
}

/// A topology that could not be declared or verified.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The broker's topology differs from the plan. Only an operator can change that.
    #[error("{}", masked(.0))]
    Mismatch(String),
    /// The request to the broker failed.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl TopologyError {
    /// The kind of this error.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Mismatch(_) => Reason::Topology,
            Self::Broker(error) => error.reason(),
        }
    }
}

impl Topology {
    /// Creates the names for `config` and `stages`, whose queues have a delay queue for each of `delays`.
    #[must_use]
    pub fn new(config: &TopologyConfig, stages: &[&'static StageDef], delays: &[Duration]) -> Self {
        Self {
            stages: stages.into(),
            prefix: config.prefix.as_str().to_owned(),
            declare: config.declare,
            queue_length_max: config.queue_length_max.get(),
            delays: delays.to_vec(),
            receipts: false,
            verified: Arc::default(),
            redeclared: Redeclarations::default(),
            looked_for_leftovers: Arc::default(),
        }
    }

    /// Adds the exchange and the queue of receipts.
    #[must_use]
    pub fn with_receipts(self) -> Self {
        Self { receipts: true, ..self }
    }

    /// The exchange `name`, with the prefix.
    #[must_use]
    pub fn exchange(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// The name of `queue`, with the prefix.
    #[must_use]
    pub fn queue(&self, queue: &QueueDef) -> String {
        format!("{}.{}", self.prefix, queue.name)
    }

    /// The dead queue of `queue`.
    #[must_use]
    pub fn dead_queue(queue: &str) -> String {
        format!("{queue}.dead")
    }

    /// The delay queue in which messages of `queue` wait for `delay`.
    #[must_use]
    pub fn delay_queue(queue: &str, delay: Duration) -> String {
        format!("{queue}.hold.{}", delay.as_millis())
    }

    /// The queue through which dead letters return to `queue`.
    #[must_use]
    pub fn replay_queue(queue: &str) -> String {
        format!("{queue}{REPLAY}")
    }

    /// True if this program declares what is missing.
    #[must_use]
    pub fn creates(&self) -> bool {
        self.declare == Declare::Create
    }

    /// The delays of the delay queues, ascending.
    #[must_use]
    pub fn delays(&self) -> &[Duration] {
        &self.delays
    }

    /// Declares, verifies or ignores the topology, as `topology.declare` says; `limit` applies to each reply. Refuses a queue of another
    /// `guests.delivery` in any case. A topology that was found correct is not requested again at each new connection. A cluster that lost a node may
    /// take a minute to reply to a declaration, and serves its queues meanwhile.
    ///
    /// # Errors
    /// [`TopologyError`], which names the exchange or queue and the argument.
    pub async fn ensure(
        &self,
        connection: &impl BrokerConnection,
        limit: Duration,
    ) -> Result<(), TopologyError> {
        if self.verified.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.declare {
            Declare::Off => self.refuse_rivals(connection, limit).await?,
            Declare::Check => self.declare(connection, true, limit).await?,
            Declare::Create => self.declare(connection, false, limit).await?,
        }
        self.verified.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the next [`Topology::ensure`] declare or verify again. Callers use it after an error on a connection
    /// that is still open: a queue or an exchange may be missing.
    pub fn invalidate(&self) {
        self.verified.store(false, Ordering::Relaxed);
    }

    /// Notifies all consumers that a missing queue or binding was redeclared. A queue of the same name may be a new
    /// one, and the broker does not always notify the consumers of the old one.
    pub(super) fn notify_redeclared(&self) {
        self.redeclared.add();
    }

    /// Sees each [`Topology::notify_redeclared`] from now on.
    pub(super) fn redeclared(&self) -> Redeclared {
        self.redeclared.watch()
    }
}
