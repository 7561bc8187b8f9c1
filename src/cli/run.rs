//! `run`: runs the worker.

use tracing::info;

use super::{CommandError, signals};
use crate::{config::Loaded, telemetry::logs::LogSwitch, worker};

pub(super) async fn run(loaded: &Loaded, level: LogSwitch) -> Result<(), CommandError> {
    info!(
        version = env!("CARGO_PKG_VERSION"),
        prefix = loaded.config.topology.prefix.as_str(),
        devices_allowed = !loaded.config.devices.allowed.is_empty(),
        "worker starting"
    );
    signals::log_level(level)?;
    worker::run(loaded, signals::shutdown()?).await?;
    info!("worker stopped");
    Ok(())
}
