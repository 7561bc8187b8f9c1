//! The HTTP call itself, below every rule of [`super::Upstream`].

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reqwest::{Client, Request, Response, redirect};
use rustls::ClientConfig;
use secrecy::ExposeSecret;
use tokio::time::Instant;
use url::Url;

use super::{
    UpstreamLimits,
    proxy::{Proxies, Proxy},
};
use crate::{endpoint::Obstacle, tls};

#[cfg(test)]
use crate::simulation::network as simulated;

/// How often an HTTP/2 connection is asked whether it still works, and how long it may take to say so.
const PING: Duration = Duration::from_secs(5);

/// How an API is reached.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// `tls.ca_file`: trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// What the environment says of proxies.
    pub proxies: Proxies,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum NoClient {
    /// TLS can't be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Anything else.
    #[error("{0}")]
    Http(#[from] reqwest::Error),
}

/// Carries requests out.
#[derive(Debug)]
pub(super) enum Transport {
    Http(Box<Http>),
    #[cfg(test)]
    Simulated(simulated::Api),
}

/// A client with its connections, and how to make another.
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
    /// How many there were before it.
    number: u64,
    /// When it last brought a whole answer.
    worked_at: Option<Instant>,
}

/// A call that was begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    client: u64,
    at: Instant,
}

/// At which step a call ended without a whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Before anything was sent.
    NoConnection(Obstacle),
    /// At its time limit.
    TimedOut,
    /// Within the answer's body.
    CutOff,
    /// Anywhere else.
    OnTheWay,
}

impl Transport {
    /// Calls to `url`'s host.
    pub(super) fn new(url: &Url, limits: &UpstreamLimits, network: &Network) -> Result<Self, NoClient> {
        let tls = tls::https(network.ca_file.as_deref())?;
        let proxy = network.proxies.of_url(url).cloned();
        let client = client(&tls, proxy.as_ref(), limits)?;
        let current = Mutex::new(CurrentClient { client, number: 0, worked_at: None });
        Ok(Self::Http(Box::new(Http { tls, proxy, limits: *limits, current })))
    }

    /// The host and port of the proxy that calls go through.
    pub(super) fn proxy(&self) -> Option<&str> {
        match self {
            Self::Http(http) => http.proxy.as_ref().map(|proxy| proxy.shown.as_str()),
            #[cfg(test)]
            Self::Simulated(_) => None,
        }
    }

    /// The answer's head, its body to be read; within the request's own time limit. Who reads the body says then what
    /// came of the call: that it [worked](Self::worked), or [broke](Self::broke).
    pub(super) async fn call(&self, request: Request) -> Result<(Response, Begun), Broken> {
        match self {
            Self::Http(http) => {
                let (client, begun) = http.begin();
                let answer = client.execute(request).await.map_err(Broken::from);
                let answer = answer.inspect_err(|broken| http.broke(begun, *broken))?;
                Ok((answer, begun))
            }
            #[cfg(test)]
            Self::Simulated(api) => Ok((api.call(request).await?, Begun { client: 0, at: Instant::now() })),
        }
    }

    /// The connection of this call works.
    pub(super) fn worked(&self, begun: Begun) {
        match self {
            Self::Http(http) => http.worked(begun),
            #[cfg(test)]
            Self::Simulated(_) => {}
        }
    }

    /// The call ended without a whole answer.
    pub(super) fn broke(&self, begun: Begun, broken: Broken) {
        match self {
            Self::Http(http) => http.broke(begun, broken),
            #[cfg(test)]
            Self::Simulated(_) => {}
        }
    }

    /// The next call gets a connection of its own.
    pub(super) fn reconnect(&self, begun: Begun) {
        match self {
            Self::Http(http) => http.renew(&mut http.current(), begun),
            #[cfg(test)]
            Self::Simulated(_) => {}
        }
    }
}

impl Http {
    fn current(&self) -> MutexGuard<'_, CurrentClient> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> (Client, Begun) {
        let current = self.current();
        (current.client.clone(), Begun { client: current.number, at: Instant::now() })
    }

    fn worked(&self, begun: Begun) {
        let mut current = self.current();
        if current.number == begun.client {
            current.worked_at = Some(Instant::now());
        }
    }

    /// A call that broke may have met a connection that hangs, which would be used for the next one as well, and for
    /// each after. Unless others got their answers meanwhile, the next call uses new connections.
    fn broke(&self, begun: Begun, broken: Broken) {
        let mut current = self.current();
        let others_work = current.worked_at.is_some_and(|worked_at| worked_at >= begun.at);
        if !others_work && !matches!(broken, Broken::NoConnection(_)) {
            self.renew(&mut current, begun);
        }
    }

    fn renew(&self, current: &mut CurrentClient, begun: Begun) {
        if current.number != begun.client {
            return;
        }
        // It was made of the same parts before. Calls that are under way keep the old one until they end.
        if let Ok(client) = client(&self.tls, self.proxy.as_ref(), &self.limits) {
            *current = CurrentClient { client, number: current.number + 1, worked_at: None };
        }
    }
}

fn client(
    tls: &ClientConfig,
    proxy: Option<&Proxy>,
    limits: &UpstreamLimits,
) -> Result<Client, reqwest::Error> {
    let builder = Client::builder()
        .user_agent(concat!("instant-connect-worker/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(limits.connect_timeout)
        .timeout(limits.timeout)
        .pool_idle_timeout(Duration::from_secs(30))
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING)
        .http2_keep_alive_while_idle(true)
        .tcp_nodelay(true)
        .tls_backend_preconfigured(tls.clone())
        // A redirect could take the token to another host.
        .redirect(redirect::Policy::none())
        // Ours alone decides: the client would pass over a proxy that it can't read.
        .no_proxy();
    let builder = match proxy {
        Some(proxy) => builder.proxy(reqwest::Proxy::https(proxy.url.expose_secret())?),
        None => builder,
    };
    builder.build()
}

impl From<reqwest::Error> for Broken {
    fn from(error: reqwest::Error) -> Self {
        match error {
            error if error.is_connect() => Self::NoConnection(Obstacle::of(&error)),
            error if error.is_timeout() => Self::TimedOut,
            error if error.is_body() || error.is_decode() => Self::CutOff,
            _ => Self::OnTheWay,
        }
    }
}
