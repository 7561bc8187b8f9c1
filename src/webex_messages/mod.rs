//! The Webex Messages API, which delivers host links to experts.
//!
//! - [`card`]: the message that the expert sees
//! - [`client`]: the calls

pub mod card;
pub mod client;
mod sent_before;

pub use client::WebexClient;
