//! A webhook that records its requests.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode},
};
use serde_json::Value;
use tokio::net::TcpListener;
use url::Url;

/// A webhook that answers with the given statuses in their order, then with 200. Status 0 means no answer.
#[derive(Clone, Default)]
pub(super) struct WebhookStub(Arc<Mutex<WebhookLog>>);

#[derive(Default)]
struct WebhookLog {
    answers: Vec<u16>,
    requests: Vec<WebhookCall>,
}

#[derive(Clone)]
pub(super) struct WebhookCall {
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl WebhookCall {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// The receipt's field, wherever it stands.
    pub(super) fn field(&self, name: &str) -> Value {
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        let outer = &body["deliveryInfoNotification"];
        outer.get(name).or_else(|| outer["deliveryInfo"].get(name)).cloned().unwrap_or_default()
    }

    pub(super) fn code(&self) -> String {
        let code = self.field("code");
        code.as_str().map_or_else(|| code.to_string(), str::to_owned)
    }
}

impl WebhookStub {
    pub(super) async fn serve(answers: &[u16]) -> (Self, Url) {
        let stub = Self::default();
        stub.0.lock().unwrap().answers = answers.to_vec();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/receipts?service=1", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(stub.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (stub, url.parse().unwrap())
    }

    pub(super) fn calls(&self) -> Vec<WebhookCall> {
        self.0.lock().unwrap().requests.clone()
    }
}

async fn answer(
    State(stub): State<WebhookStub>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let status = {
        let mut log = stub.0.lock().unwrap();
        log.requests.push(WebhookCall { method, headers, body });
        if log.answers.is_empty() { 200 } else { log.answers.remove(0) }
    };
    if status == 0 {
        std::future::pending::<()>().await;
    }
    StatusCode::from_u16(status).unwrap()
}
