//! The HTTP ingress: one authenticated request becomes one confirmed start event.
//!
//! - [`config`]: settings of a client
//! - [`client_tokens`]: its tokens, as digests; [`client_signatures`]: its signatures; `rotating_lines`: files that rotate
//! - `clients`: who may call; `rate`: how often
//! - `serve`: the listener, its connections and their limits
//! - `service`: the order of work for a request; `signed`: for a signed one; `head`: its headers; `body`: its body; `problem`: error responses
//!   to what is not accepted
//! - `outlet`: the broker's part
//! - [`receipts`]: accepts the receipts of Webex Connect
//! - [`sessions`]: validates an event, claims its id, publishes it with confirm
//! - [`openapi`]: the description of all that for other programs
//!
//! The ingress validates with the very code of stage `link`, and responds with 202 only after the broker's confirm. The id of an
//! event follows from the request. So a client that repeats a request whose response it did not get makes no second event.

mod body;
pub(crate) mod client_signatures;
pub(crate) mod client_tokens;
pub(crate) mod clients;
pub mod config;
mod head;
pub mod openapi;
pub(crate) mod outlet;
mod problem;
mod rate;
pub(crate) mod receipts;
pub(crate) mod rotating_lines;
mod serve;
mod service;
pub(crate) mod sessions;
mod signed;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use self::{
    clients::Clients,
    outlet::Outlet,
    receipts::Receipts,
    service::{IngressService, RequestOrigin},
    sessions::StartEvents,
};
use self::{
    config::AddressBlock,
    receipts::{key::ReceiptKeys, signature::HubSecrets},
    serve::IngressListener,
};
use crate::tls::{ClientFiles, server::server};

/// Settings of the ingress, in the form that it takes.
#[derive(Debug)]
pub(crate) struct IngressSettings {
    pub(crate) listen: SocketAddr,
    /// Plain HTTP without a certificate.
    pub(crate) certificate: Option<ClientFiles>,
    /// CAs of the certificates that clients must show.
    pub(crate) client_ca: Option<PathBuf>,
    pub(crate) connections_max: usize,
    pub(crate) in_flight_max: usize,
    /// Time after a stop in which connections and requests are still accepted.
    pub(crate) drain: Duration,
    pub(crate) trusted_proxies: Vec<AddressBlock>,
    pub(crate) requires_key: bool,
    pub(crate) clients: Clients,
    /// `None`: receipts are off.
    pub(crate) receipts: Option<ReceiptSettings>,
}

/// Settings of receipts.
#[derive(Debug)]
pub(crate) struct ReceiptSettings {
    /// `None`: receipts need no signature.
    pub(crate) secrets: Option<HubSecrets>,
    /// `None`: receipts need no key.
    pub(crate) keys: Option<ReceiptKeys>,
}

/// Reason that the ingress could not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IngressError {
    /// The address is in use, or not an address of this machine.
    #[error(
        "ingress.listen = \"{listen}\": cannot listen there: {source}\nhint: another worker or program may use this port; \
         set another one (port 0 selects a free port), or \"off\""
    )]
    Listen { listen: SocketAddr, source: io::Error },
    /// The certificate is unusable.
    #[error("ingress.tls_cert_file or ingress.client_ca_file: {0}")]
    Tls(#[from] rustls::Error),
}

/// The ingress, bound to its address.
pub(crate) struct Ingress {
    address: SocketAddr,
    listener: IngressListener,
}

impl Ingress {
    /// Listens, and logs the address. Connections wait until [`Ingress::run`].
    ///
    /// # Errors
    /// [`IngressError`].
    pub(crate) fn bind(
        settings: IngressSettings,
        events: StartEvents,
        receipts: Option<Receipts>,
        stop: CancellationToken,
    ) -> Result<Self, IngressError> {
        let listen = settings.listen;
        let client_ca = settings.client_ca;
        let config = settings.certificate.map(|files| server(files, client_ca)).transpose()?;
        let tls = config.map(|config| TlsAcceptor::from(Arc::new(config)));
        let failed = |source| IngressError::Listen { listen, source };
        let listener = serve::bind(listen).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        info!(%address, tls = tls.is_some(), "ingress listens");
        let service = IngressService {
            clients: settings.clients,
            events,
            receipts,
            in_flight: Semaphore::new(settings.in_flight_max),
            trusted_proxies: settings.trusted_proxies,
            requires_key: settings.requires_key,
            openapi: openapi::document().to_string().into(),
            draining: stop,
            closed: CancellationToken::new(),
        };
        let (open_max, drain) = (settings.connections_max, settings.drain);
        let listener = IngressListener { listener, tls, service: Arc::new(service), open_max, drain };
        Ok(Self { address, listener })
    }

    /// The address on which it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until a stop is requested, load balancers had time to notice, and the requests in progress have responses.
    pub(crate) async fn run(self) {
        self.listener.run().await;
    }
}
