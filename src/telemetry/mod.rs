//! Logs, metrics and traces for operators.
//!
//! - [`logs`]: one line per decision
//! - [`metrics`]: counters, gauges and histograms for Prometheus
//! - [`traces`]: spans, sent to a collector (`otlp`)

pub mod logs;
pub mod metrics;
mod otlp;
pub mod traces;

pub(crate) use otlp::try_collector;
