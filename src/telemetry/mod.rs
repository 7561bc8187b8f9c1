//! Logs, metrics and traces for operators.
//!
//! - [`logs`]: one line per decision; `json_line`: its JSON form
//! - [`metrics`]: counters, gauges and histograms for Prometheus
//! - [`traces`]: spans, sent to a collector (`otlp`)

mod json_line;
pub mod logs;
pub mod metrics;
mod otlp;
pub mod traces;

pub(crate) use otlp::try_collector;
