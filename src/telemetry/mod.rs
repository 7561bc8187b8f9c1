//! What operators see.
//!
//! - [`logs`]: one line a decision
//! - [`metrics`]: what is counted and measured, for Prometheus
//! - [`traces`]: spans, sent to a collector (`otlp`)

pub mod logs;
pub mod metrics;
mod otlp;
pub mod traces;

pub(crate) use otlp::try_collector;
