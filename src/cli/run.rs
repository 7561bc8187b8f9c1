//! `run`: the worker.

use tracing::info;

use super::{Failure, signals};
use crate::{config::Loaded, telemetry::logs::Level, worker};

pub(super) async fn run(loaded: &Loaded, level: Level) -> Result<(), Failure> {
    info!(
        version = env!("CARGO_PKG_VERSION"),
        prefix = loaded.config.topology.prefix.as_str(),
        devices_allowed = !loaded.config.devices.allowed.is_empty(),
        "starting"
    );
    signals::log_level(level)?;
    worker::run(loaded, signals::shutdown()?).await?;
    info!("stopped");
    Ok(())
}
