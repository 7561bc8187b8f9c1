//! The HTTP client for the APIs and the collector.

use std::time::Duration;

use reqwest::{Client, ClientBuilder, redirect};
use rustls::ClientConfig;

/// Interval and timeout of HTTP/2 keep-alive pings. Without them, requests on a connection that a firewall has forgotten
/// fail until TCP gives up, which takes many minutes. For HTTP/1.1 `reqwest` sends TCP keep-alive probes.
const PING: Duration = Duration::from_secs(5);

/// The settings that all HTTP clients have in common.
pub(crate) fn client(tls: ClientConfig) -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("instant-connect-worker/", env!("CARGO_PKG_VERSION")))
        .pool_idle_timeout(Duration::from_secs(30))
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING)
        .http2_keep_alive_while_idle(true)
        .tcp_nodelay(true)
        .tls_backend_preconfigured(tls)
        // A redirect could take a token to another host.
        .redirect(redirect::Policy::none())
}
