//! The HTTP call itself, below every rule of [`super::Upstream`].

use std::time::Duration;

use reqwest::{Client, Request, Response, redirect};
use url::Url;

use super::Limits;

#[cfg(test)]
use crate::simulation::network as simulated;

/// Carries requests out.
#[derive(Debug)]
pub(super) enum Transport {
    Http(Client),
    #[cfg(test)]
    Simulated(simulated::Api),
}

/// At which step a call ended without a whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Before anything was sent.
    NoConnection,
    /// At its time limit.
    TimedOut,
    /// Within the answer's body.
    CutOff,
    /// Anywhere else.
    OnTheWay,
}

impl Transport {
    /// Calls to `url`'s host.
    pub(super) fn new(url: &Url, limits: &Limits) -> Result<Self, reqwest::Error> {
        // Fails only where a provider is installed already, which is as good.
        _ = rustls::crypto::ring::default_provider().install_default();
        let builder = Client::builder()
            .user_agent(concat!("instant-connect-worker/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(limits.connect_timeout)
            .timeout(limits.timeout)
            .pool_idle_timeout(Duration::from_secs(30))
            .tcp_nodelay(true)
            // A redirect could take the token to another host.
            .redirect(redirect::Policy::none());
        // Without TLS a proxy would read the token; such hosts are local, and need none.
        let builder = if url.scheme() == "http" { builder.no_proxy() } else { builder };
        builder.build().map(Self::Http)
    }

    /// The answer's head, its body to be read; within the request's own time limit.
    pub(super) async fn call(&self, request: Request) -> Result<Response, Broken> {
        match self {
            Self::Http(client) => client.execute(request).await.map_err(Broken::from),
            #[cfg(test)]
            Self::Simulated(api) => api.call(request).await,
        }
    }
}

impl From<reqwest::Error> for Broken {
    fn from(error: reqwest::Error) -> Self {
        match error {
            error if error.is_connect() => Self::NoConnection,
            error if error.is_timeout() => Self::TimedOut,
            error if error.is_body() || error.is_decode() => Self::CutOff,
            _ => Self::OnTheWay,
        }
    }
}
