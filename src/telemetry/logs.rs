//! Logs, on standard error: JSON or text, one line a decision.
//!
//! Never logged: links, numbers, addresses, names, tokens, passwords, bodies, a flow's `attributes` and
//! `correlationId`. Ids that came from outside are logged as [`crate::contract::private::loggable_id`] gives them.
//! Libraries' own events are dropped whatever the level, for they may hold any of these (lapin logs a returned
//! message whole); their errors are reported by the code that got them. A panic is logged by its place alone.

use std::panic;

use tracing::{Level, Metadata, error};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, filter_fn},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::config::{LogFormat, LogLevel, Telemetry};

/// Sends this program's events to standard error from here on, and panics too. A second call changes nothing.
pub fn init(config: &Telemetry) {
    let level = LevelFilter::from_level(match config.log_level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
    });
    let layer = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let layer = match config.log_format {
        LogFormat::Json => {
            layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
        LogFormat::Text => layer.boxed(),
    };
    let registry =
        tracing_subscriber::registry().with(layer.with_filter(filter_fn(is_ours)).with_filter(level));
    // An embedding program may have set its own.
    if registry.try_init().is_ok() {
        panic::set_hook(Box::new(|info| {
            let place = info.location().map_or_else(|| "unknown".to_owned(), ToString::to_string);
            error!(place, "panic: a defect of this program");
        }));
    }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.target().split("::").next() == Some(env!("CARGO_CRATE_NAME"))
}
