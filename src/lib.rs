//! Turns "start video session" events into Webex Instant Connect links.
pub mod broker;
pub mod config;
pub mod contract;
pub mod instant_connect;
pub mod outcome;
pub mod retry;
pub mod sandbox;
pub mod stages;
pub mod upstream;
pub mod webex;
pub mod worker;
