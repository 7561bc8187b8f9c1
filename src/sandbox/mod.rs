//! Webex Instant Connect and the Webex Messages API, faked faithfully, for tests, demos and try-outs.
//!
//! A client that works here works there: the bearer token is checked, the Guide's types and ranges hold, errors have
//! Cisco's shape with a `trackingId`, ciphers are real nested JOSE that any library opens ([`jose`] says with which
//! keys), short codes redirect, and faults come on demand ([`faults`] says which).
//!
//! # Layout
//!
//! | module | what is there |
//! |---|---|
//! | `api` | the way of every request: counting, faults, authorisation, tracking ids, the shape of errors |
//! | `joseencrypt` | `POST /api/v2/joseencrypt` |
//! | [`jose`], `keys` | the ciphers; the keys derived once |
//! | `messages` | `/v1/messages`, `/v1/messages/direct`, `/v1/messages/{id}`, `/v1/people/me` |
//! | `visit` | `/visit/{code}` and the long links, which stay in the sandbox |
//! | `page`, `control` | what a person sees on `/` and `/sandbox/state`; `/sandbox/faults` |
//! | [`faults`] | rules, their written form, carrying them out |
//! | `state`, `log`, `records`, `ring` | [`Handle`] and what it shows, bounded |
//!
//! Nothing in here logs.

mod api;
mod control;
pub mod faults;
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

pub use faults::{Endpoint, Fault, FaultRule, How, WrongShape};
pub use log::{KEPT, KEPT_BYTES, LogCounts};
pub use records::{
    Arrival, RecordedCall, RecordedLink, RecordedMessage, RecordedRole, RecordedVertical, Text,
};
pub use state::Handle;

/// How long requests may take to end once the sandbox closes; what hangs by a fault is let go at once.
const CLOSE: Duration = Duration::from_secs(2);

/// How a sandbox is set up.
#[derive(Clone, Debug)]
pub struct SandboxOptions {
    /// Where it listens. Port 0 picks a free one.
    pub listen: SocketAddr,
    /// Lets it listen elsewhere than on loopback, where everybody can see its links and set its faults.
    pub allow_any_address: bool,
    /// The bearer token that it accepts; [`Handle::set_token`] rotates it.
    pub token: SecretString,
    /// Opens the ciphers; [`jose`] says how.
    pub password: SecretString,
    /// `baseUrl` of short links, ending in `/`. Without one they lead to the sandbox: `http://ADDR/visit/`.
    pub base_url: Option<Url>,
}

/// Why a sandbox could not be set up or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// [`SandboxOptions::listen`] is not loopback, and [`SandboxOptions::allow_any_address`] is not set.
    #[error(
        "the sandbox would listen on {0}, where others can reach its links and its faults\nhint: listen on 127.0.0.1, or, if they may, `sandbox --allow-any-address`"
    )]
    NotLoopback(SocketAddr),
    /// [`SandboxOptions::base_url`] has no use as a prefix of codes.
    #[error(
        "base_url must be an http or https URL that ends in /, because short codes are appended as they are"
    )]
    BaseUrl,
    /// The address is taken, or not one of this machine's.
    #[error(
        "cannot listen on {addr}: {source}\nhint: another program may listen there; port 0 picks a free port"
    )]
    Listen {
        /// Where it should have listened.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The listener broke while serving.
    #[error("the sandbox had to stop: {0}")]
    Serve(#[source] io::Error),
}

/// A sandbox that has its address and does not serve yet.
pub struct Sandbox {
    listener: TcpListener,
    addr: SocketAddr,
    handle: Handle,
}

impl Sandbox {
    /// Takes the address. Connections are accepted from then on and answered once [`Self::serve`] runs.
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

    /// Where it listens, with the port that was picked.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://ADDR/`, for clients on this machine.
    #[must_use]
    pub fn url(&self) -> Url {
        self.handle.url().clone()
    }

    /// Its state, also after [`Self::serve`] took the sandbox itself.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Answers until `shutdown` resolves, then lets requests end for two seconds at most.
    pub async fn serve(
        self,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), SandboxError> {
        let (router, handle) = (router(self.handle.clone()), self.handle);
        // Answers are small and somebody waits for each: without this, the kernel may hold one back for 40 ms.
        let listener = self.listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        let closing = handle.clone();
        let served = axum::serve(listener, router).with_graceful_shutdown(async move {
            shutdown.await;
            closing.close();
        });
        tokio::select! {
            ended = served => ended.map_err(SandboxError::Serve),
            () = async { handle.closing().await; tokio::time::sleep(CLOSE).await } => Ok(()),
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

/// What listens everywhere is reached, from this machine, on loopback.
fn url_of(addr: SocketAddr) -> Result<Url, SandboxError> {
    let ip = if addr.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { addr.ip() };
    Url::parse(&format!("http://{}/", SocketAddr::new(ip, addr.port()))).map_err(|_| SandboxError::BaseUrl)
}
