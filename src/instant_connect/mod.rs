//! Instant Connect's `joseencrypt`: short meeting links for the hosts and guests of a session.
//!
//! - [`links_call`]: the split of a session's links into calls
//! - [`request`]: the body of a request
//! - [`response`]: validation of the response
//! - [`client`]: the next call of a session

pub mod client;
pub mod links_call;
pub mod request;
pub mod response;

pub use client::{InstantConnectClient, Links};
