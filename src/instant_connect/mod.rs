//! Instant Connect's `joseencrypt`: short meeting links for the hosts and guests of a session.
//!
//! - [`request`]: the request body, and the split of a session into calls
//! - [`response`]: validation of the response
//! - [`client`]: the calls

pub mod client;
pub mod request;
pub mod response;

pub use client::{InstantConnectClient, Links};
