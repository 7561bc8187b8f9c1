//! One request to a webhook, on a connection of its own.

use std::{io, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderName, HeaderValue, Method, Request, header},
};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use secrecy::ExposeSecret as _;
use tokio::{net::TcpStream, time::timeout};
use url::{Host, Url};
use uuid::Uuid;

use super::{ReceiptResult, ReceiptWebhook, SignatureAlgorithm, hex};
use crate::jose::{Signature, mac};

/// A request that can be sent several times, each time with the same bytes.
pub(super) struct WebhookRequest {
    url: Url,
    method: Method,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl WebhookRequest {
    pub(super) fn new(webhook: &ReceiptWebhook, method: Method, body: Option<Bytes>) -> Self {
        let mut headers = Vec::new();
        let mut add = |name: &[u8], value: &str| {
            if let (Ok(name), Ok(mut value)) = (HeaderName::from_bytes(name), HeaderValue::from_str(value)) {
                value.set_sensitive(true);
                headers.push((name, value));
            }
        };
        add(b"x-wx-gtrid", &Uuid::new_v4().to_string());
        if let Some((name, value)) = &webhook.api_key {
            add(name.as_bytes(), value.expose_secret());
        }
        if let Some(body) = &body {
            add(b"content-type", "application/json");
            if let Some(signature) = signature(webhook, body) {
                add(b"x-hub-signature", &signature);
            }
        }
        Self { url: webhook.url.clone(), method, headers, body: body.unwrap_or_default() }
    }

    /// Sends the request. The body of the response is not read.
    pub(super) async fn send(&self, limit: Duration) -> ReceiptResult {
        match timeout(limit, self.exchange()).await {
            Ok(Ok(status)) => ReceiptResult::Status(status),
            Ok(Err(_)) => ReceiptResult::Unreachable,
            Err(_) => ReceiptResult::TimedOut,
        }
    }

    async fn exchange(&self) -> io::Result<u16> {
        let stream = connect(&self.url).await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let response = sender.send_request(self.request()?);
        tokio::pin!(response);
        // The connection must be polled, too; if it ends first, the response is there or never comes.
        let response = tokio::select! {
            response = &mut response => response,
            _ = connection => response.await,
        };
        response.map(|response| response.status().as_u16()).map_err(io::Error::other)
    }

    fn request(&self) -> io::Result<Request<Body>> {
        let path = &self.url[url::Position::BeforePath..url::Position::AfterQuery];
        let host = &self.url[url::Position::BeforeHost..url::Position::AfterPort];
        let mut request = Request::builder().method(self.method.clone()).uri(path).header(header::HOST, host);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Body::from(self.body.clone())).map_err(io::Error::other)
    }
}

async fn connect(url: &Url) -> io::Result<TcpStream> {
    if url.scheme() != "http" {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    let port = url.port_or_known_default().unwrap_or_default();
    match url.host() {
        Some(Host::Domain(name)) => TcpStream::connect((name, port)).await,
        Some(Host::Ipv4(ip)) => TcpStream::connect((ip, port)).await,
        Some(Host::Ipv6(ip)) => TcpStream::connect((ip, port)).await,
        None => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    }
}

/// HMAC over the body, in lower-case hexadecimal digits.
fn signature(webhook: &ReceiptWebhook, body: &[u8]) -> Option<String> {
    let (signature, prefix) = match webhook.algorithm {
        SignatureAlgorithm::Sha256 => (Signature::Hs256, "sha256="),
        SignatureAlgorithm::Sha512 => (Signature::Hs512, "sha512="),
    };
    let secret = webhook.secret.as_ref()?.expose_secret();
    let mac = mac(signature, secret.as_bytes(), &[body]).ok()?;
    let digits = hex(&mac);
    Some(if webhook.prefix { format!("{prefix}{digits}") } else { digits })
}
