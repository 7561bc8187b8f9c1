//! Logs, on standard error: JSON or text, one line a decision.
//!
//! Never logged: links, numbers, addresses, names, tokens, passwords, bodies, a flow's `attributes` and
//! `correlationId`. Ids that came from outside are logged as [`crate::contract::private::loggable_id`] gives them.
//! Libraries' own events are dropped whatever the level, for they may hold any of these (lapin logs a returned
//! message whole); their errors are reported by the code that got them. A panic is logged by its place alone.
//! Whatever is written is masked by `crate::masking`, as the last net.
//! The README says the same to operators, and what the levels mean.

use std::{fmt, io::IsTerminal, panic};

use tracing::{Metadata, error, info};
use tracing_subscriber::{
    Layer, Registry,
    filter::{LevelFilter, filter_fn},
    fmt as format,
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use crate::{
    config::{LogFormat, LogLevel, TelemetryConfig},
    masking::Masked,
};

/// The level of the log, which may be changed while the program runs.
pub struct LogSwitch {
    configured: LevelFilter,
    current: reload::Handle<LevelFilter, Registry>,
}

impl LogSwitch {
    /// Says all there is to say from here on.
    pub fn debug(&self) {
        self.set(LevelFilter::DEBUG);
        info!(log_level = "debug", "log level changed");
    }

    /// Says what the configuration asks for.
    pub fn configured(&self) {
        // Said before it holds: a higher level would not let it pass.
        info!(log_level = %self.configured, "log level changed");
        self.set(self.configured);
    }

    fn set(&self, level: LevelFilter) {
        // It fails only where no log is set up any more.
        _ = self.current.reload(level);
    }
}

impl fmt::Debug for LogSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogSwitch").field("configured", &self.configured).finish_non_exhaustive()
    }
}

/// Sends this program's events to standard error from here on, and panics too. A second call changes nothing.
pub fn init(config: &TelemetryConfig) -> LogSwitch {
    let configured = match config.log_level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let (level, current) = reload::Layer::new(configured);
    let colours = std::io::stderr().is_terminal();
    let layer =
        format::layer().with_writer(|| Masked(std::io::stderr())).with_target(false).with_ansi(colours);
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
    LogSwitch { configured, current }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.target().split("::").next() == Some(env!("CARGO_CRATE_NAME"))
}
