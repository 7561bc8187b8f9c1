//! Faithful fakes of Webex Instant Connect, the Webex Messages API and Webex Connect, for tests, demos and experiments.
//!
//! A client that works here also works with the real APIs. The bearer token is checked, and the Guide's types and ranges
//! apply. Errors have Cisco's form with a `trackingId`. Ciphers are real nested JOSE that any library can open ([`jose`]
//! describes the keys). Short codes redirect, and faults can be injected ([`faults`] describes them).
//!
//! Webex Connect (SMS, WhatsApp, events, receipts) is a server of its own, [`ConnectSandbox`].
//!
//! # Layout
//!
//! | module | content |
//! |---|---|
//! | `api` | common request handling: counters, faults, authorisation, tracking ids, errors |
//! | `joseencrypt` | `POST /api/v2/joseencrypt` |
//! | [`jose`], `keys` | the ciphers; the shared derived keys |
//! | `messages` | `/v1/messages`, `/v1/messages/direct`, `/v1/messages/{id}`, `/v1/people/me` |
//! | `visit` | `/visit/{code}` and the long links, which stay in the sandbox |
//! | `page`, `control` | the pages `/` and `/sandbox/state`; the control of a server with `/sandbox/faults` |
//! | `connect` | Webex Connect: SMS, WhatsApp, events, receipts |
//! | [`faults`] | fault rules, their text form, their execution |
//! | `state`, `log`, `records`, `ring` | [`Handle`] and its bounded records |
//!
//! This crate does not log.

// `make lint` builds the documentation with private items, so these links work.
#![allow(rustdoc::private_intra_doc_links, reason = "the documentation includes private items")]

mod api;
mod connect;
mod control;
mod faults;
pub mod jose;
mod joseencrypt;
mod keys;
mod log;
mod messages;
mod page;
mod records;
mod ring;
mod state;
mod visit;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{get, post},
    serve::ListenerExt as _,
};
use secrecy::SecretString;
use tokio::net::TcpListener;
use url::Url;

pub use connect::{
    ConnectCounts, ConnectHandle, ConnectSandbox, ConnectSandboxOptions, ConnectSettings, KnownEvent,
    ReceiptForm, ReceiptPlacement, ReceiptResult, ReceiptState, ReceiptWebhook, RecordedReceipt,
    RecordedSend, SentContent, ServiceCredentials, SignatureAlgorithm, TemplateButton, TemplateParseError,
    UsedCredential, WhatsAppTemplate,
};
pub use faults::{
    Endpoint, Fault, FaultRule, Frequency, ParseError, ReceiptFault, RefusalFault, RefusalShape, WrongShape,
};
pub use log::{KEPT, KEPT_BYTES, LogCounts};
pub use records::{
    Arrival, RecordedCall, RecordedLink, RecordedMessage, RecordedRole, RecordedVertical, Text,
};
pub use state::Handle;

/// Time for requests to end when the sandbox closes; requests that hang because of a fault end immediately.
const CLOSE: Duration = Duration::from_secs(2);

/// Options of a sandbox.
#[derive(Clone, Debug)]
pub struct SandboxOptions {
    /// Listen address. Port 0 picks a free port.
    pub listen: SocketAddr,
    /// Allows addresses other than loopback, where other machines can see the links and set faults.
    pub allow_any_address: bool,
    /// The accepted bearer token; [`Handle::set_token`] rotates it.
    pub token: SecretString,
    /// The password of the ciphers; see [`jose`].
    pub password: SecretString,
    /// `baseUrl` of short links, ending in `/`. Default: the sandbox itself, `http://ADDR/visit/`.
    pub base_url: Option<Url>,
}

/// Error at the start or during the run of a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// [`SandboxOptions::listen`] is not loopback, and [`SandboxOptions::allow_any_address`] is not set.
    #[error(
        "the sandbox would listen on {0}, where other machines can read its links and set its faults\n\
         hint: listen on 127.0.0.1, or allow this with `sandbox --allow-any-address`"
    )]
    NotLoopback(SocketAddr),
    /// [`SandboxOptions::base_url`] can't be the prefix of short codes.
    #[error("base_url must be an http or https URL that ends in /, because short codes are appended to it")]
    BaseUrl,
    /// The address is in use, or is not an address of this machine.
    #[error(
        "cannot listen on {addr}: {source}\nhint: another program may use this address; port 0 picks a free port"
    )]
    Listen {
        /// The listen address.
        addr: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The listener failed while serving.
    #[error("sandbox server failed: {0}")]
    Serve(#[source] io::Error),
}

/// A sandbox that has its address but does not serve yet.
pub struct Sandbox {
    listener: TcpListener,
    addr: SocketAddr,
    handle: Handle,
}

impl Sandbox {
    /// Binds the address. Connections are accepted from then on, and processed when [`Self::serve`] runs.
    pub async fn bind(options: SandboxOptions) -> Result<Self, SandboxError> {
        if !options.allow_any_address && !options.listen.ip().is_loopback() {
            return Err(SandboxError::NotLoopback(options.listen));
        }
        let listen = |source| SandboxError::Listen { addr: options.listen, source };
        let listener = TcpListener::bind(options.listen).await.map_err(listen)?;
        let addr = listener.local_addr().map_err(listen)?;
        let url = url_of(addr)?;
        let base_url = match options.base_url {
            Some(base) => base,
            None => url.join("visit/").map_err(|_| SandboxError::BaseUrl)?,
        };
        if !matches!(base_url.scheme(), "http" | "https") || !base_url.as_str().ends_with('/') {
            return Err(SandboxError::BaseUrl);
        }
        let handle = Handle::new(keys::Keys::new(options.password), options.token, url, base_url);
        Ok(Self { listener, addr, handle })
    }

    /// Listen address, with the actual port.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://ADDR/`, for clients on this machine.
    #[must_use]
    pub fn url(&self) -> Url {
        self.handle.url().clone()
    }

    /// Handle to the state, also usable after [`Self::serve`] has consumed the sandbox.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves until `shutdown` resolves, then waits at most two seconds for requests to end.
    pub async fn serve(
        self,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), SandboxError> {
        let (router, handle) = (router(self.handle.clone()), self.handle);
        // Responses are small; without this option, the kernel may delay them by 40 ms.
        let listener = self.listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        let closing = handle.clone();
        let served = axum::serve(listener, router).with_graceful_shutdown(async move {
            shutdown.await;
            closing.control().close();
        });
        tokio::select! {
            ended = served => ended.map_err(SandboxError::Serve),
            () = async { handle.control().closing().await; tokio::time::sleep(CLOSE).await } => Ok(()),
        }
    }
}

fn router(handle: Handle) -> Router {
    let long_links =
        visit::LONG_PATHS.iter().fold(Router::new(), |router, path| router.route(path, get(visit::long)));
    long_links
        .route("/api/v2/joseencrypt", post(joseencrypt::post))
        .route("/v1/messages", get(messages::list).post(messages::post))
        .route("/v1/messages/direct", get(messages::direct))
        .route("/v1/messages/{id}", get(messages::one))
        .route("/v1/people/me", get(messages::me))
        .route("/visit/{code}", get(visit::visit))
        .route("/", get(page::index))
        .route("/livez", get(page::live))
        .route("/sandbox/state", get(page::state))
        .route("/sandbox/faults", get(control::list).post(control::add).delete(control::clear))
        .fallback(api::no_such_path)
        .method_not_allowed_fallback(api::no_such_method)
        .layer(DefaultBodyLimit::max(api::BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(handle.clone(), api::guard))
        .with_state(handle)
}

/// URL of `addr` from this machine; an unspecified address is replaced by loopback.
fn url_of(addr: SocketAddr) -> Result<Url, SandboxError> {
    let ip = if addr.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { addr.ip() };
    Url::parse(&format!("http://{}/", SocketAddr::new(ip, addr.port()))).map_err(|_| SandboxError::BaseUrl)
}
