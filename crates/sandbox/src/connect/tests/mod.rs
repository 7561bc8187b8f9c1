//! The fake of Webex Connect, tested over real sockets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod credentials;
mod event;
mod faults;
mod receipts;
mod sms;
mod webhook;
mod whatsapp;

use std::{future::pending, time::Duration};

use axum::{
    body::{Body, to_bytes},
    http::{HeaderMap, Method, Request, header},
};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use url::Url;

use super::{ConnectHandle, ConnectSandbox, ConnectSandboxOptions, ConnectSettings};
use crate::{Handle, Sandbox, SandboxOptions};

const KEY: &str = "first-key";
/// Longer than any step of a test on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A served fake, with the phones of a sandbox that is not served.
struct ConnectProbe {
    handle: ConnectHandle,
    phones: Handle,
}

struct ProbeReply {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl ProbeReply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    /// The code of a refusal in any form, as a string.
    fn code(&self) -> String {
        let json = self.json();
        let places = ["/code", "/response/code", "/response/0/code", "/detail/response_message/code"];
        let code = places.iter().find_map(|place| json.pointer(place)).unwrap();
        code.as_str().map_or_else(|| code.to_string(), str::to_owned)
    }
}

async fn serve(change: impl FnOnce(&mut ConnectSettings)) -> ConnectProbe {
    let listen = "127.0.0.1:0".parse().unwrap();
    let sandbox = Sandbox::bind(SandboxOptions {
        listen,
        allow_any_address: false,
        token: "token".into(),
        password: "password".into(),
        base_url: None,
    });
    let phones = sandbox.await.unwrap().handle();
    let mut settings = ConnectSettings::with_key(KEY.into());
    change(&mut settings);
    let options =
        ConnectSandboxOptions { listen, allow_any_address: false, phones: Some(phones.clone()), settings };
    let connect = ConnectSandbox::bind(options).await.unwrap();
    let handle = connect.handle();
    tokio::spawn(connect.serve(pending()));
    ConnectProbe { handle, phones }
}

impl ConnectProbe {
    async fn sms(&self, body: &Value) -> ProbeReply {
        self.post("/v2/messages", body).await.unwrap()
    }

    async fn whatsapp(&self, body: &Value) -> ProbeReply {
        self.post("/resources/v1/messaging", body).await.unwrap()
    }

    async fn event(&self, body: &Value) -> ProbeReply {
        self.post("/resources/v1/events/externalevent/", body).await.unwrap()
    }

    /// `None` if the connection was refused or cut.
    async fn post(&self, path: &str, body: &Value) -> Option<ProbeReply> {
        self.send(path, &[("key", KEY)], &body.to_string()).await
    }

    async fn send(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Option<ProbeReply> {
        let url = self.handle.url();
        let exchange = exchange(&url, path, headers, body);
        tokio::time::timeout(PATIENCE, exchange).await.unwrap()
    }

    async fn until(&self, condition: impl FnMut(&ConnectHandle) -> bool) {
        tokio::time::timeout(PATIENCE, self.handle.until(condition)).await.unwrap();
    }
}

async fn exchange(url: &Url, path: &str, headers: &[(&str, &str)], body: &str) -> Option<ProbeReply> {
    let address = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let stream = TcpStream::connect(&address).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, address)
        .header(header::CONTENT_TYPE, "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Body::from(body.to_owned())).unwrap()).await.ok()?;
    let (head, body) = response.into_parts();
    let body = to_bytes(Body::new(body), usize::MAX).await.ok()?;
    let text = String::from_utf8(body.to_vec()).unwrap();
    Some(ProbeReply { status: head.status.as_u16(), headers: head.headers, text })
}

/// A valid SMS, with these fields changed; `null` removes a field.
fn sms(more: &Value) -> Value {
    let body = json!({
        "channel": "sms",
        "from": "34900123123",
        "to": [{"msisdn": ["+34600111222"], "correlationId": "0b5a8f7e-6f0f-5a53-9d0a-2a1f6d3f4c11"}],
        "content": {"type": "text", "text": "Ana, su consulta: https://instant.webex.com/visit/ckmNR7I."},
        "validity": 3480,
        "requestedReceipts": ["SUBMITTED", "DELIVERED", "FAILED"],
    });
    changed(body, more)
}

/// A valid WhatsApp message, with these fields changed.
fn whatsapp(more: &Value) -> Value {
    let body = json!({
        "deliverychannel": "whatsapp",
        "appid": "sandbox-app",
        "destination": [{"waid": ["34600111222"]}],
        "correlationid": "0b5a8f7e-6f0f-5a53-9d0a-2a1f6d3f4c11",
        "message": {
            "template": "link-es",
            "parameters": {"name": "Ana", "join": {"type": "url", "payload": "ckmNR7I"}},
        },
    });
    changed(body, more)
}

fn changed(mut body: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        if value.is_null() {
            body.as_object_mut().unwrap().remove(key);
        } else {
            body[key] = value.clone();
        }
    }
    body
}
