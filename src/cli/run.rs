//! `run`: runs the worker.

use tracing::info;

use super::{CommandError, signals};
use crate::{
    config::Loaded,
    telemetry::logs::LogSwitch,
    worker::{self, WorkerRole},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Parts to run; the ingress and the stages can then scale separately
    #[arg(long, value_enum, default_value_t = WorkerRole::All)]
    role: WorkerRole,
}

pub(super) async fn run(loaded: &Loaded, args: &Args, level: LogSwitch) -> Result<(), CommandError> {
    let role: &'static str = args.role.into();
    info!(
        role,
        version = env!("CARGO_PKG_VERSION"),
        prefix = loaded.config.topology.prefix.as_str(),
        devices_allowed = !loaded.config.devices.allowed.is_empty(),
        "worker starting"
    );
    signals::log_level(level)?;
    worker::run(loaded, args.role, None, signals::shutdown()?).await?;
    info!("worker stopped");
    Ok(())
}
