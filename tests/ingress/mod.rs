//! The HTTP ingress with a real broker: each answer, repeats, limits, tokens and roles.

mod answers;
mod cloud_events;
mod limits;
mod repeats;
mod roles;
mod signatures;
mod smuggling;
mod tokens;
mod unavailable;

use std::time::Duration;

use reqwest::{RequestBuilder, header::HeaderMap};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use testkit::{Rig, admin::Admin, leaks::leaks, program::Program, rig::CLIENT_TOKEN, soon};

/// An ingress on a free port, with one client.
const INGRESS: [(&str, &str); 2] =
    [("ingress.listen", "127.0.0.1:0"), ("ingress.clients.flows.token", CLIENT_TOKEN)];

/// The settings of an ingress that no load balancer uses, and others.
fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&INGRESS[..], &[("ingress.drain", "1ms")], more].concat()
}

/// A client of one program's ingress.
pub(crate) struct Caller {
    pub(crate) address: String,
    pub(crate) http: reqwest::Client,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: HeaderMap,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {self:?}")).to_str().unwrap()
    }

    /// The type of a problem, whose body must show no private value.
    pub(crate) fn problem(&self, rig: &Rig) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        assert!(leaks(&self.text, &rig.sandbox).is_empty(), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{self:?}");
        problem["type"].as_str().unwrap().to_owned()
    }
}

impl Caller {
    /// A caller of `program`, once it listens and can publish.
    pub(crate) async fn of(program: &Program) -> Self {
        program.output.until("ingress listens", 1).await;
        Admin::of(program).await.until(r#"connected{connection="publish"}"#, "1").await;
        let said = program.output.logged("ingress listens");
        // Err means that a provider is installed already, which is fine.
        _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { address: said[0]["address"].as_str().unwrap().to_owned(), http }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A request to start a session, without a body.
    fn post(&self) -> RequestBuilder {
        self.http
            .post(self.url("/v1/sessions"))
            .bearer_auth(CLIENT_TOKEN)
            .header("content-type", "application/json")
    }

    /// Starts a session with this key.
    async fn start(&self, key: &str, event: &Value) -> Reply {
        reply(self.post().header("idempotency-key", key).body(event.to_string())).await
    }

    /// Opens a connection and sends `bytes`.
    async fn connect(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    /// Sends `bytes` and reads until the server ends the connection.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        rest(self.connect(bytes).await).await
    }
}

/// Reads until the server ends the connection.
async fn rest(mut stream: impl AsyncRead + Unpin) -> String {
    let mut answer = Vec::new();
    // A server that closes with unread bytes resets the connection, after its answer.
    _ = soon("the end of the connection", stream.read_to_end(&mut answer)).await;
    String::from_utf8(answer).unwrap()
}

pub(crate) async fn reply(request: RequestBuilder) -> Reply {
    let response = soon("an answer", request.timeout(Duration::from_secs(60)).send()).await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Reply { status, headers, text: response.text().await.unwrap() }
}

/// The head of a request to start a session, with these header lines.
fn head(lines: &str) -> String {
    format!(
        "POST /v1/sessions HTTP/1.1\r\nHost: ingress\r\nAuthorization: Bearer {CLIENT_TOKEN}\r\nContent-Type: application/json\r\n{lines}\r\n"
    )
}
