//! The HTTP call itself, without the rules of [`super::Upstream`].

use std::{
    fmt,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use futures_util::future::BoxFuture;
use reqwest::{Client, Request, Response};
use rustls::ClientConfig;
use secrecy::ExposeSecret;
use tokio::time::Instant;
use url::Url;

use super::{
    UpstreamLimits,
    proxy::{Proxies, Proxy},
};
use crate::{
    endpoint::{Obstacle, http},
    tls,
};

/// Network settings for reaching an API.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// `tls.ca_file`: CAs that are trusted in addition to the system's.
    pub ca_file: Option<PathBuf>,
    pub proxies: Proxies,
}

/// Reason that no HTTP client can be built.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// TLS can't be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Anything else.
    #[error("{0}")]
    Http(#[from] reqwest::Error),
}

/// Sends requests, and learns from their ends which connections work. The reader of a response body reports the end of
/// the call with [`succeeded`](Self::succeeded) or [`failed`](Self::failed).
pub trait Transport: fmt::Debug + Send + Sync {
    /// Sends a request within its own time limit, and returns the response head with an unread body.
    fn call(&self, request: Request) -> BoxFuture<'_, Result<(Response, CallStart), CallFailure>>;

    /// Host and port of the proxy, if calls use one.
    fn proxy(&self) -> Option<&str>;

    /// Reports that the connection of this call works.
    fn succeeded(&self, start: CallStart);

    /// Reports that the call ended without a complete response.
    fn failed(&self, start: CallStart, failure: CallFailure);

    /// Makes the next call use a new connection.
    fn reconnect(&self, start: CallStart);
}

/// A client with its connections, and the parts to build another one.
#[derive(Debug)]
pub(super) struct Http {
    tls: ClientConfig,
    proxy: Option<Proxy>,
    limits: UpstreamLimits,
    current: Mutex<CurrentClient>,
}

/// The client in use.
#[derive(Debug)]
struct CurrentClient {
    client: Client,
    /// Number of earlier clients.
    number: u64,
    /// Time of the last complete response.
    succeeded_at: Option<Instant>,
}

/// Client number and start time of a call.
#[derive(Clone, Copy, Debug)]
pub struct CallStart {
    client: u64,
    at: Instant,
}

impl CallStart {
    /// The start, at this moment, of a call by client number `client`.
    #[must_use]
    pub fn now(client: u64) -> Self {
        Self { client, at: Instant::now() }
    }
}

/// Step at which a call failed without a complete response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFailure {
    /// Before anything was sent.
    NoConnection(Obstacle),
    /// At the time limit.
    TimedOut,
    /// Within the response body.
    CutOff,
    /// At any other step.
    Other,
}

impl Http {
    /// A transport for calls to the host of `url`.
    pub(super) fn new(url: &Url, limits: &UpstreamLimits, network: &Network) -> Result<Self, ClientError> {
        let tls = tls::https(network.ca_file.as_deref())?;
        let proxy = network.proxies.of_url(url).cloned();
        let client = client(&tls, proxy.as_ref(), limits)?;
        let current = Mutex::new(CurrentClient { client, number: 0, succeeded_at: None });
        Ok(Self { tls, proxy, limits: *limits, current })
    }

    fn current(&self) -> MutexGuard<'_, CurrentClient> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> (Client, CallStart) {
        let current = self.current();
        (current.client.clone(), CallStart::now(current.number))
    }

    fn renew(&self, current: &mut CurrentClient, start: CallStart) {
        if current.number != start.client {
            return;
        }
        // The same parts built a client before, so this succeeds. Calls in progress keep the old client until they end.
        if let Ok(client) = client(&self.tls, self.proxy.as_ref(), &self.limits) {
            *current = CurrentClient { client, number: current.number + 1, succeeded_at: None };
        }
    }
}

impl Transport for Http {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<(Response, CallStart), CallFailure>> {
        Box::pin(async move {
            let (client, start) = self.begin();
            let response = client.execute(request).await.map_err(CallFailure::from);
            let response = response.inspect_err(|failure| self.failed(start, *failure))?;
            Ok((response, start))
        })
    }

    fn proxy(&self) -> Option<&str> {
        self.proxy.as_ref().map(|proxy| proxy.shown.as_str())
    }

    fn succeeded(&self, start: CallStart) {
        let mut current = self.current();
        if current.number == start.client {
            current.succeeded_at = Some(Instant::now());
        }
    }

    /// Replaces the client after a failed call, because later calls would reuse a connection that hangs. Keeps the client
    /// if another call has got a complete response since the failed call started.
    fn failed(&self, start: CallStart, failure: CallFailure) {
        let mut current = self.current();
        let others_work = current.succeeded_at.is_some_and(|succeeded_at| succeeded_at >= start.at);
        if !others_work && !matches!(failure, CallFailure::NoConnection(_)) {
            self.renew(&mut current, start);
        }
    }

    fn reconnect(&self, start: CallStart) {
        self.renew(&mut self.current(), start);
    }
}

fn client(
    tls: &ClientConfig,
    proxy: Option<&Proxy>,
    limits: &UpstreamLimits,
) -> Result<Client, reqwest::Error> {
    let builder = http::client(tls.clone())
        .connect_timeout(limits.connect_timeout)
        .timeout(limits.timeout)
        // Only `proxy` applies: the client itself would silently ignore a proxy variable that it cannot parse.
        .no_proxy();
    let builder = match proxy {
        Some(proxy) => builder.proxy(reqwest::Proxy::https(proxy.url.expose_secret())?),
        None => builder,
    };
    builder.build()
}

impl From<reqwest::Error> for CallFailure {
    fn from(error: reqwest::Error) -> Self {
        match error {
            error if error.is_connect() => Self::NoConnection(Obstacle::of(&error)),
            error if error.is_timeout() => Self::TimedOut,
            error if error.is_body() || error.is_decode() => Self::CutOff,
            _ => Self::Other,
        }
    }
}
