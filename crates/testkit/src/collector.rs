//! A trace collector: accepts OTLP over HTTP and keeps the spans.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, StatusCode, Uri},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span as Sent, span::SpanKind},
};
use prost::Message;
use tokio::{net::TcpListener, sync::watch};

use crate::{program::Environment, soon};

/// The collector's response to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Takes,
    /// Responds with this status.
    Refuses(u16),
    /// Never responds.
    Hangs,
}

/// A received span, with ids in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub name: String,
    pub kind: SpanKind,
    pub trace_id: String,
    pub id: String,
    /// Empty if the span has no parent.
    pub parent: String,
    pub attributes: BTreeMap<String, String>,
    /// Trace id and span id of each link.
    pub links: Vec<(String, String)>,
    /// The error description, if the span failed.
    pub error: Option<String>,
    /// The resource attributes of the sender.
    pub resource: BTreeMap<String, String>,
}

impl Span {
    /// An attribute, or an empty text.
    pub fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

pub struct Collector {
    url: String,
    state: Arc<State>,
}

struct State {
    mode: Mutex<Mode>,
    spans: Mutex<Vec<Span>>,
    /// All received spans as text.
    text: Mutex<String>,
    /// The headers of the last request.
    headers: Mutex<HeaderMap>,
    requests: watch::Sender<usize>,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            mode: Mutex::new(Mode::Takes),
            spans: Mutex::default(),
            text: Mutex::default(),
            headers: Mutex::default(),
            requests: watch::Sender::new(0),
        });
        let served = Arc::clone(&state);
        let router = Router::new().fallback(move |uri: Uri, headers: HeaderMap, body: Bytes| {
            let state = Arc::clone(&served);
            async move { state.take(&uri, headers, &body).await }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, state }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Environment that makes a program send its spans here without delay.
    pub fn environment(&self) -> Environment {
        [("OTEL_EXPORTER_OTLP_ENDPOINT", self.url.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "50")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }

    pub fn set_mode(&self, mode: Mode) {
        *self.state.mode.lock().unwrap() = mode;
    }

    pub fn spans(&self) -> Vec<Span> {
        self.state.spans.lock().unwrap().clone()
    }

    /// All received spans as text.
    pub fn text(&self) -> String {
        self.state.text.lock().unwrap().clone()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        let headers = self.state.headers.lock().unwrap();
        headers.get(name).map(|value| value.to_str().unwrap().to_owned())
    }

    pub fn requests(&self) -> usize {
        *self.state.requests.borrow()
    }

    /// Waits until there were this many requests in total.
    pub async fn until_requests(&self, count: usize) {
        let mut requests = self.state.requests.subscribe();
        soon("requests at the collector", requests.wait_for(|requests| *requests >= count)).await.unwrap();
    }
}

impl State {
    async fn take(&self, uri: &Uri, headers: HeaderMap, body: &Bytes) -> StatusCode {
        let mode = *self.mode.lock().unwrap();
        if mode == Mode::Takes {
            assert_eq!(
                (uri.path(), headers["content-type"].as_bytes()),
                ("/v1/traces", &b"application/x-protobuf"[..])
            );
            self.keep(&ExportTraceServiceRequest::decode(body.as_ref()).unwrap());
        }
        *self.headers.lock().unwrap() = headers;
        self.requests.send_modify(|requests| *requests += 1);
        match mode {
            Mode::Takes => StatusCode::OK,
            Mode::Refuses(status) => StatusCode::from_u16(status).unwrap(),
            Mode::Hangs => std::future::pending().await,
        }
    }

    fn keep(&self, request: &ExportTraceServiceRequest) {
        for batch in &request.resource_spans {
            let resource = batch.resource.as_ref().map(|one| map(&one.attributes)).unwrap_or_default();
            for span in batch.scope_spans.iter().flat_map(|scope| &scope.spans) {
                self.spans.lock().unwrap().push(read(span, &resource));
                writeln!(self.text.lock().unwrap(), "{span:?} {resource:?}").unwrap();
            }
        }
    }
}

fn read(span: &Sent, resource: &BTreeMap<String, String>) -> Span {
    Span {
        name: span.name.clone(),
        kind: span.kind(),
        trace_id: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        attributes: map(&span.attributes),
        links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
        error: span.status.as_ref().filter(|status| status.code == 2).map(|status| status.message.clone()),
        resource: resource.clone(),
    }
}

fn map(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: Option<&Value>| match value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    let value = |one: &KeyValue| text(one.value.as_ref().and_then(|value| value.value.as_ref()));
    attributes.iter().map(|one| (one.key.clone(), value(one))).collect()
}

fn hex(id: &[u8]) -> String {
    id.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
