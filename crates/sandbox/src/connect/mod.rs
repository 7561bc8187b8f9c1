//! Fake of Webex Connect: SMS, WhatsApp, custom events and receipts, on a server of its own.
//!
//! | request | content |
//! |---|---|
//! | `POST /v2/messages` | SMS: 201, or 400 with `code` and `message` |
//! | `POST /resources/v1/messaging` | WhatsApp: 200 with 1001, or 200 with another code |
//! | `POST /resources/v1/events/externalevent/` | custom events: 200 with 1002, or 200 with another code |
//! | `GET`, `POST`, `DELETE /sandbox/faults` | faults, as on the other server ([`FaultRule`](crate::FaultRule)) |
//! | `GET /sandbox/state` | counts, and the latest sends and receipts |
//!
//! A request needs the header `key`, or a JWT ([`ServiceCredentials`]). A wrong credential is a 401 without a body for SMS,
//! and code 7001 for the other APIs.
//!
//! If Webex Connect documents no rule, this fake is strict, so that a mistake shows here and not in production. It accepts
//! no `sendAt`, no template for SMS and no parameter that a WhatsApp template does not have. It refuses a number of the
//! wrong form for its API, with or without `+`.
//!
//! Each accepted message is recorded ([`RecordedSend`]) and shown on the phones of
//! [`ConnectSandboxOptions::phones`]. If [`ConnectSettings::webhook`] is set, its receipts follow:
//! submitted, delivered and, for WhatsApp, read.

mod credentials;
mod event;
mod guard;
mod limits;
mod listener;
mod receipts;
mod records;
mod refused;
mod sms;
mod state;
mod templates;
#[cfg(test)]
mod tests;
mod whatsapp;

use std::{net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    middleware,
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};
use url::Url;

pub use credentials::{ServiceCredentials, UsedCredential};
pub use event::KnownEvent;
pub use receipts::{ReceiptForm, ReceiptPlacement, ReceiptState, ReceiptWebhook, SignatureAlgorithm};
pub use records::{ConnectCounts, ReceiptResult, RecordedReceipt, RecordedSend, SentContent};
pub use state::ConnectHandle;
pub use templates::{TemplateButton, TemplateParseError, WhatsAppTemplate};

use crate::{CLOSE, Handle, SandboxError, api, control, faults::RefusalShape, page, url_of};

/// Maximum number of entries of each kind in `/sandbox/state`.
const SHOWN: usize = 100;

/// Options of a fake of Webex Connect.
#[derive(Clone)]
pub struct ConnectSandboxOptions {
    /// Listen address. Port 0 picks a free port.
    pub listen: SocketAddr,
    /// Allows addresses other than loopback, where other machines can see the messages and set faults.
    pub allow_any_address: bool,
    /// The sandbox whose phones show the messages, and whose short links are the default of
    /// [`TemplateButton::base_url`].
    pub phones: Option<Handle>,
    /// The first settings; [`ConnectHandle::change_settings`] changes them.
    pub settings: ConnectSettings,
}

/// Settings that can change while the fake runs.
#[derive(Clone, Debug)]
pub struct ConnectSettings {
    /// Accepted credentials.
    pub credentials: ServiceCredentials,
    /// Accepted values of `from`. Empty: each value of the right form.
    pub senders: Vec<String>,
    /// The accepted `appid`.
    pub app_id: String,
    /// The approved templates.
    pub templates: Vec<WhatsAppTemplate>,
    /// The events that flows wait for. Empty: each event, without mandatory parameters.
    pub events: Vec<KnownEvent>,
    /// Form of a v1 refusal and of the response to one event: object or array. `None`: object and array in turn.
    pub refusal_shape: Option<RefusalShape>,
    /// Status of a wrong key of the v1 APIs. False: 200. True: 403.
    pub wrong_key_is_403: bool,
    /// Target of receipts. `None`: no receipts.
    pub webhook: Option<ReceiptWebhook>,
    /// Pause between two receipts of one message.
    pub receipt_step: Duration,
    /// Form of the receipts. `None`: all contradictory forms in turn.
    pub receipt_form: Option<ReceiptForm>,
}

impl ConnectSettings {
    /// Settings with one key, the app id `sandbox-app`, the default templates and no receipts.
    #[must_use]
    pub fn with_key(key: secrecy::SecretString) -> Self {
        Self {
            credentials: ServiceCredentials { keys: vec![key], ..ServiceCredentials::default() },
            senders: Vec::new(),
            app_id: "sandbox-app".to_owned(),
            templates: WhatsAppTemplate::defaults(),
            events: Vec::new(),
            refusal_shape: None,
            wrong_key_is_403: false,
            webhook: None,
            receipt_step: Duration::ZERO,
            receipt_form: None,
        }
    }
}

/// A fake of Webex Connect that has its address but does not serve yet.
pub struct ConnectSandbox {
    listener: TcpListener,
    addr: SocketAddr,
    handle: ConnectHandle,
    receipts: mpsc::Receiver<receipts::ReceiptJob>,
}

impl ConnectSandbox {
    /// Binds the address. Connections are accepted from then on, and processed when [`Self::serve`] runs.
    pub async fn bind(options: ConnectSandboxOptions) -> Result<Self, SandboxError> {
        if !options.allow_any_address && !options.listen.ip().is_loopback() {
            return Err(SandboxError::NotLoopback(options.listen));
        }
        let listen = |source| SandboxError::Listen { addr: options.listen, source };
        let listener = TcpListener::bind(options.listen).await.map_err(listen)?;
        let addr = listener.local_addr().map_err(listen)?;
        let links = match &options.phones {
            Some(phones) => phones.base_url().clone(),
            None => Url::parse("https://instant.webex.com/visit/").map_err(|_| SandboxError::BaseUrl)?,
        };
        let (sender, receipts) = mpsc::channel(limits::WAITING_RECEIPTS_MAX);
        let handle = ConnectHandle::new(url_of(addr)?, links, options.phones, options.settings, sender);
        Ok(Self { listener, addr, handle, receipts })
    }

    /// Listen address, with the actual port.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Handle to the state, also usable after [`Self::serve`] has consumed the fake.
    #[must_use]
    pub fn handle(&self) -> ConnectHandle {
        self.handle.clone()
    }

    /// Serves and sends receipts until `shutdown` resolves, then waits at most two seconds for requests to end.
    pub async fn serve(
        self,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), SandboxError> {
        let (handle, closing) = (self.handle.clone(), self.handle.clone());
        let (wanted, listening) = handle.gates();
        let listener = listener::GatedListener::new(self.listener, self.addr, wanted, listening);
        let served = axum::serve(listener, router(handle.clone())).with_graceful_shutdown(async move {
            shutdown.await;
            closing.control().close();
        });
        let receipts = receipts::run(handle.clone(), self.receipts);
        tokio::select! {
            ended = served => ended.map_err(SandboxError::Serve),
            () = async { tokio::join!(receipts, handle.control().closing()); tokio::time::sleep(CLOSE).await } => Ok(()),
        }
    }
}

fn router(handle: ConnectHandle) -> Router {
    Router::new()
        .route("/v2/messages", post(sms::post))
        .route("/resources/v1/messaging", post(whatsapp::post))
        .route("/resources/v1/events/externalevent/", post(event::post))
        .route("/livez", get(page::live))
        .route("/sandbox/state", get(shown_state))
        .route("/sandbox/faults", get(control::list).post(control::add).delete(control::clear))
        .fallback(async || StatusCode::NOT_FOUND)
        .method_not_allowed_fallback(async || StatusCode::METHOD_NOT_ALLOWED)
        .layer(DefaultBodyLimit::max(api::BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(handle.clone(), guard::guard))
        .with_state(handle)
}

/// `GET /sandbox/state`, newest first.
async fn shown_state(State(handle): State<ConnectHandle>) -> Json<Value> {
    let (sends, receipts) = handle.latest(SHOWN);
    Json(json!({
        "counts": handle.counts(),
        "sends": sends,
        "receipts": receipts,
        "faults": handle.control().shown_faults(),
    }))
}
