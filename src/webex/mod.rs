//! The Webex Messages API: the expert's side.
//!
//! - [`card`]: what the expert sees
//! - [`client`]: the call

pub mod card;
pub mod client;
mod listed;

pub use client::WebexClient;
