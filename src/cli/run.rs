//! `run`: the worker.

use tracing::info;

use super::{Failure, signals};
use crate::{config::Loaded, worker};

pub(super) async fn run(loaded: &Loaded) -> Result<(), Failure> {
    info!(
        version = env!("CARGO_PKG_VERSION"),
        prefix = loaded.config.topology.prefix.as_str(),
        devices_allowed = !loaded.config.devices.allowed.is_empty(),
        "starting"
    );
    worker::run(loaded, signals::shutdown()?).await?;
    info!("stopped");
    Ok(())
}
