//! The chart's rules and dashboard.
