//! Turns "start video session" events into Webex Instant Connect links.
pub mod contract;
pub mod sandbox;
