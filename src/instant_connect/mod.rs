//! Instant Connect's `joseencrypt`: short meeting links for the hosts and guests of a session.
//!
//! - [`request`]: what is sent, and how a session is split over calls
//! - [`response`]: what is believed of the answer
//! - [`client`]: the calls

pub mod client;
pub mod request;
pub mod response;

pub use client::{InstantConnectClient, Links};
