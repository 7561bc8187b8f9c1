//! The parts that a worker runs.

use std::net::SocketAddr;

use tokio::sync::oneshot;

use crate::{
    config::{ConfigError, LedgerChoice, Loaded},
    contract::stage::StageDef,
    ingress::IngressSettings,
    state::PublishState,
};

/// The parts that a worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum WorkerRole {
    /// The stages, and the ingress if ingress.listen is set
    All,
    /// The stages only
    Stages,
    /// The ingress only
    Ingress,
}

/// The parts of a role that the configuration switches on.
pub(super) struct WorkerParts {
    pub(super) stages: Vec<&'static StageDef>,
    pub(super) ingress: Option<IngressSettings>,
    /// Gets the ingress once it listens.
    pub(super) listens: Option<oneshot::Sender<ListeningIngress>>,
}

/// An ingress that listens.
#[derive(Debug)]
#[cfg_attr(not(feature = "sandbox"), allow(dead_code, reason = "only the demo reads it"))]
pub(crate) struct ListeningIngress {
    pub(crate) address: SocketAddr,
    /// It accepts events while this connection is up.
    pub(crate) publishing: PublishState,
}

impl WorkerParts {
    /// The parts of `role`. Checks their tokens, because the worker can't start without.
    pub(super) fn of(role: WorkerRole, loaded: &Loaded) -> Result<Self, ConfigError> {
        if role != WorkerRole::Stages
            && loaded.config.takes_receipts()
            && loaded.config.ingress.listen.is_none()
        {
            let expected = "expected ADDRESS:PORT, because receipts are on (section receipts) and come through the ingress";
            return Err(loaded.settings.error("ingress.listen", expected));
        }
        if role != WorkerRole::All
            && loaded.config.waits_for_receipts()
            && loaded.config.ledger.kind != LedgerChoice::Redis
        {
            let expected = "expected redis, because receipts are on (section receipts): with --role stages and --role ingress, a stage finds \
                            the receipts of another worker's ingress only in a shared ledger";
            return Err(loaded.settings.error("ledger.kind", expected));
        }
        let ingress = if role == WorkerRole::Stages { None } else { loaded.ingress()? };
        if role == WorkerRole::Ingress {
            if ingress.is_none() {
                return Err(ConfigError::new(
                    "ingress.listen: expected ADDRESS:PORT, because --role ingress runs nothing else",
                ));
            }
            return Ok(Self { stages: Vec::new(), ingress, listens: None });
        }
        loaded.network()?;
        loaded.instant_connect_token()?;
        if loaded.delivers_to_hosts() {
            loaded.hosts_token()?;
        }
        if loaded.config.sends_to_guests() {
            loaded.connect_credential()?;
            if !loaded.config.wakes_flows() {
                loaded.texts()?;
            }
        }
        Ok(Self { stages: loaded.stages(), ingress, listens: None })
    }
}
