//! The sandbox, tested over HTTP because all other tests rely on it.

mod faults;
mod instant_connect;
mod messages;
mod pages;
mod python;

use std::future::pending;

use instant_connect_sandbox::{Handle, Sandbox, SandboxError, SandboxOptions};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use url::Url;

pub(crate) const TOKEN: &str = "sandbox-token";
pub(crate) const PASSWORD: &str = "sandbox-password";

/// A sandbox that runs until the test's runtime ends.
pub(crate) struct Served {
    pub(crate) handle: Handle,
    pub(crate) url: Url,
    pub(crate) client: Client,
}

pub(crate) async fn serve() -> Served {
    // Err means that a provider is installed already, which is fine.
    _ = rustls::crypto::ring::default_provider().install_default();
    let sandbox = Sandbox::bind(options()).await.unwrap();
    let (handle, url) = (sandbox.handle(), sandbox.url());
    tokio::spawn(sandbox.serve(pending()));
    let client = Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap();
    Served { handle, url, client }
}

pub(crate) fn options() -> SandboxOptions {
    SandboxOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        allow_any_address: false,
        token: TOKEN.into(),
        password: PASSWORD.into(),
        base_url: None,
    }
}

impl Served {
    pub(crate) fn at(&self, path: &str) -> Url {
        self.url.join(path).unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.client.get(self.at(path)).bearer_auth(TOKEN).send().await.unwrap()
    }

    pub(crate) async fn send(&self, path: &str, body: &Value) -> reqwest::Result<Response> {
        self.client.post(self.at(path)).bearer_auth(TOKEN).json(body).send().await
    }

    pub(crate) async fn ask(&self, body: &Value) -> Response {
        self.send("/api/v2/joseencrypt", body).await.unwrap()
    }

    pub(crate) async fn message(&self, body: &Value) -> Response {
        self.send("/v1/messages", body).await.unwrap()
    }
}

/// The Guide's smallest request, with these fields added.
pub(crate) fn request(more: &Value) -> Value {
    let mut body = json!({"jwt": {"sub": "visit-1"}, "aud": "a4d886b0-979f-4e2c-a958-3e8c14605e51"});
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

/// Asserts that a response is a refusal in Cisco's form with the header's tracking id. Returns its description.
pub(crate) async fn refusal(response: Response, status: StatusCode) -> String {
    assert_eq!(response.status(), status);
    let tracking_id = response.headers()["trackingid"].to_str().unwrap().to_owned();
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["trackingId"], tracking_id);
    assert!(body["message"].is_string(), "{body}");
    body["errors"][0]["description"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn sandbox_listens_only_on_loopback_by_default() {
    let anywhere = SandboxOptions { listen: "0.0.0.0:0".parse().unwrap(), ..options() };
    let refused = Sandbox::bind(anywhere.clone()).await.err().unwrap();
    assert!(matches!(refused, SandboxError::NotLoopback(_)));
    assert!(refused.to_string().contains("allow-any-address"));
    let allowed = Sandbox::bind(SandboxOptions { allow_any_address: true, ..anywhere }).await.unwrap();
    assert_eq!(allowed.url().host_str(), Some("127.0.0.1"));
}

#[tokio::test]
async fn base_url_without_a_final_slash_is_refused() {
    let base_url = Some("https://instant.webex.com/visit".parse().unwrap());
    assert!(matches!(
        Sandbox::bind(SandboxOptions { base_url, ..options() }).await,
        Err(SandboxError::BaseUrl)
    ));
}

#[tokio::test]
async fn reader_gets_only_new_records() {
    let sandbox = serve().await;
    for _ in 0..3 {
        sandbox.ask(&request(&json!({}))).await;
        sandbox.message(&json!({"toPersonEmail": "expert@example.com", "text": "hello"})).await;
    }
    let (calls, messages) = (sandbox.handle.calls(), sandbox.handle.messages());
    for seen in 0..=4 {
        let new: Vec<_> = sandbox.handle.calls_after(seen).into_iter().map(|call| call.tracking_id).collect();
        let all = calls.iter().map(|call| call.tracking_id.clone());
        assert_eq!(new, all.skip(usize::try_from(seen).unwrap()).collect::<Vec<_>>());
        let new: Vec<_> = sandbox.handle.messages_after(seen).into_iter().map(|one| one.id).collect();
        let all = messages.iter().map(|one| one.id.clone());
        assert_eq!(new, all.skip(usize::try_from(seen).unwrap()).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn sandbox_stops_while_a_request_hangs() {
    let sandbox = Sandbox::bind(options()).await.unwrap();
    let (handle, url) = (sandbox.handle(), sandbox.url());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let served = tokio::spawn(sandbox.serve(async {
        let _ = stopped.await;
    }));
    handle.fault("any:hang".parse().unwrap());
    let hung = tokio::spawn(tokio::net::TcpStream::connect(handle_address(&url)));
    let mut stream = hung.await.unwrap().unwrap();
    let head = b"GET /v1/people/me HTTP/1.1\r\nhost: sandbox\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, head).await.unwrap();
    handle.until(|handle| handle.counts().people == 1).await;
    stop.send(()).unwrap();
    served.await.unwrap().unwrap();
}

pub(crate) fn handle_address(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap())
}
