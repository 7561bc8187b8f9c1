//! Logs on standard error, as JSON or text, with one line per decision.
//!
//! Never logged: links, numbers, addresses, names, tokens, passwords, bodies, a flow's `attributes` and
//! `correlationId`. Ids from outside are logged in the form of [`crate::contract::private::loggable_id`].
//! Events of libraries are dropped at every level because they may contain any of these (lapin logs whole returned
//! messages). The code that receives a library's error reports it. A panic is logged with its location only.
//! As the last safeguard, `crate::masking` masks all output. The README documents this and the levels for operators.

use std::{fmt, io::IsTerminal, panic};

use schemars::JsonSchema;
use serde::Deserialize;
use tracing::{Metadata, error, info};
use tracing_subscriber::{
    Layer, Registry,
    filter::{LevelFilter, filter_fn},
    fmt as format,
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use super::json_line::{JsonLine, SpanFields};
use crate::masking::Masked;

/// `telemetry.log_format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Plain text for people.
    Text,
}

/// `telemetry.log_level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

/// Changes the log level at run time.
pub struct LogSwitch {
    configured: LevelFilter,
    current: reload::Handle<LevelFilter, Registry>,
}

impl LogSwitch {
    /// Switches to debug logging.
    pub fn debug(&self) {
        self.set(LevelFilter::DEBUG);
        info!(log_level = "debug", "log level changed");
    }

    /// Switches back to the configured level.
    pub fn configured(&self) {
        // Logged before the switch, because the new level may suppress it.
        info!(log_level = %self.configured, "log level changed");
        self.set(self.configured);
    }

    fn set(&self, level: LevelFilter) {
        // Fails only if the subscriber is gone.
        _ = self.current.reload(level);
    }
}

impl fmt::Debug for LogSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogSwitch").field("configured", &self.configured).finish_non_exhaustive()
    }
}

/// Sets up logging of this program's events and panics to standard error. A second call changes nothing.
pub fn init(log_format: LogFormat, level: LogLevel) -> LogSwitch {
    let configured = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let (level, current) = reload::Layer::new(configured);
    let colours = std::io::stderr().is_terminal();
    let layer =
        format::layer().with_writer(|| Masked(std::io::stderr())).with_target(false).with_ansi(colours);
    let layer = match log_format {
        LogFormat::Json => SpanFields
            .and_then(layer.fmt_fields(format::format::debug_fn(|_, _, _| Ok(()))).event_format(JsonLine))
            .boxed(),
        LogFormat::Text => layer.boxed(),
    };
    let registry =
        tracing_subscriber::registry().with(layer.with_filter(filter_fn(is_ours)).with_filter(level));
    // An embedding program may have set its own subscriber.
    if registry.try_init().is_ok() {
        panic::set_hook(Box::new(|info| {
            let place = info.location().map_or_else(|| "unknown".to_owned(), ToString::to_string);
            error!(place, "panic (bug in this program)");
        }));
    }
    LogSwitch { configured, current }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.target().split("::").next() == Some(env!("CARGO_CRATE_NAME"))
}
