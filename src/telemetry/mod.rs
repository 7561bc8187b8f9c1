//! What operators see.
//!
//! - [`logs`]: one line a decision
//! - [`metrics`]: what is counted and measured, for Prometheus

pub mod logs;
pub mod metrics;
