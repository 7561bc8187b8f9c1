//! Sends spans to a collector by OTLP over HTTP, from a thread of the SDK, in batches and from a bounded queue. A slow or
//! failing collector never delays or breaks the processing of deliveries.
//!
//! The exporter could use the blocking client of `reqwest` on the SDK's thread. That client would replace only the hand-over
//! to our runtime in [`OnRuntime`], with a thread and a runtime of its own, and it must not be created, used or dropped
//! within a runtime, as [`try_collector`] does. Our own [`HttpClient`] is needed in any case: the exporter's errors do not
//! name the failed step, or contain the URL.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter as OtlpExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, Span, SpanData, SpanExporter,
        SpanProcessor,
    },
};
use tokio::runtime::Handle;
use tracing::{info, warn};
use url::Url;

use crate::{
    endpoint::{Obstacle, http},
    tls,
};

/// Maximum queued spans; further spans are dropped and counted.
const QUEUED_MAX: usize = 2048;
/// Time limit for one call of the collector, and for all attempts to send one batch.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for establishing a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Reason that no spans can be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum OtlpError {
    /// No HTTP client could be set up.
    #[error("HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    /// The SDK refuses an environment variable.
    #[error("{0}")]
    Exporter(#[from] ExporterBuildError),
    /// TLS can't be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Counts queued and dropped spans, and tracks outages of the collector.
#[derive(Debug, Default)]
pub(super) struct Spans {
    queued: AtomicUsize,
    dropped: AtomicU64,
    /// Start of the current outage.
    down_since: Mutex<Option<Instant>>,
    /// Problem of the last failed call.
    problem: Mutex<String>,
}

impl Spans {
    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Counts one more queued span, or a dropped one if the queue is full; returns true if it is queued.
    fn try_queue(&self) -> bool {
        let more = |queued| (queued < QUEUED_MAX).then_some(queued + 1);
        let queued = self.queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if !queued {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        queued
    }

    /// Records that a batch of `count` spans was sent or dropped. Logs only transitions.
    fn sent(&self, count: usize, result: &OTelSdkResult) {
        let mut down_since = self.down_since.lock().unwrap_or_else(PoisonError::into_inner);
        if result.is_ok() {
            if let Some(since) = down_since.take() {
                let dropped = self.dropped();
                info!(after_s = since.elapsed().as_secs(), dropped, "OTLP collector recovered");
            }
            return;
        }
        self.dropped.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
        if down_since.is_none() {
            *down_since = Some(Instant::now());
            let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
            warn!(error = problem, "OTLP collector unreachable; dropping spans until it recovers");
        }
    }

    fn note(&self, problem: String) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }
}

/// Sets up the export of spans to `endpoint`. The SDK reads its other settings from the environment: `OTEL_SERVICE_NAME`,
/// `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS` and the like.
pub(super) fn provider(
    endpoint: &Url,
    ca_file: Option<&Path>,
    spans: &Arc<Spans>,
) -> Result<SdkTracerProvider, OtlpError> {
    let exporter =
        WatchedExporter { exporter: exporter(endpoint, ca_file, spans)?, spans: Arc::clone(spans) };
    let config = BatchConfigBuilder::default().with_max_queue_size(QUEUED_MAX).build();
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
    let processor = BoundedProcessor { processor, spans: Arc::clone(spans) };
    Ok(SdkTracerProvider::builder().with_resource(resource()).with_span_processor(processor).build())
}

fn exporter(endpoint: &Url, ca_file: Option<&Path>, spans: &Arc<Spans>) -> Result<OtlpExporter, OtlpError> {
    let client = http::client(tls::https(ca_file)?).connect_timeout(CONNECT_TIMEOUT).timeout(TIMEOUT);
    let client = if endpoint.scheme() == "http" { client.no_proxy() } else { client };
    let client = OnRuntime { client: client.build()?, runtime: Handle::current(), spans: Arc::clone(spans) };
    let exporter = OtlpExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(endpoint.as_str())
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(TIMEOUT)
        .build()?;
    Ok(exporter)
}

/// Tests the collector at `endpoint` with an empty export, sent in the same way as spans.
///
/// # Errors
/// The problem, without any part of the URL or the headers.
pub(crate) async fn try_collector(endpoint: &Url, ca_file: Option<&Path>) -> Result<(), String> {
    let spans = Arc::new(Spans::default());
    let exporter = exporter(endpoint, ca_file, &spans).map_err(|error| error.to_string())?;
    exporter.export(Vec::new()).await.map_err(|_| {
        let problem = spans.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if problem.is_empty() { "the collector did not accept the export".to_owned() } else { problem }
    })
}

/// The OpenTelemetry resource: values from the environment override this program's name and version.
fn resource() -> Resource {
    let resource =
        Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    let named = resource.build();
    let name = named.get(&"service.name".into()).map(|name| name.to_string()).unwrap_or_default();
    if name.is_empty() || name.starts_with("unknown_service") {
        let known = named.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
        Resource::builder_empty().with_attributes(known).with_service_name(env!("CARGO_PKG_NAME")).build()
    } else {
        named
    }
}

/// Sends requests on the program's own runtime, because the SDK's thread has none.
#[derive(Debug)]
struct OnRuntime {
    client: reqwest::Client,
    runtime: Handle,
    spans: Arc<Spans>,
}

#[async_trait]
impl HttpClient for OnRuntime {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move { client.send_bytes(request).await });
        let answer = sent.await.map_err(HttpError::from).flatten();
        match &answer {
            Ok(answer) if answer.status().is_success() => {}
            Ok(answer) => {
                self.spans.note(format!("the collector responded with {}", answer.status().as_u16()));
            }
            Err(error) => self.spans.note(step(error)),
        }
        answer
    }
}

/// The step at which a call failed, without the error's text, because that may contain the URL.
fn step(error: &HttpError) -> String {
    match error.downcast_ref::<reqwest::Error>() {
        Some(error) if error.is_connect() => format!("no connection: {}", Obstacle::of(error)),
        Some(error) if error.is_timeout() => "no response within the time limit".to_owned(),
        _ => "the call failed in transit".to_owned(),
    }
}

/// Records the result of each batch.
#[derive(Debug)]
struct WatchedExporter {
    exporter: OtlpExporter,
    spans: Arc<Spans>,
}

impl SpanExporter for WatchedExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        self.spans.queued.fetch_sub(count, Ordering::Relaxed);
        let result = self.exporter.export(batch).await;
        self.spans.sent(count, &result);
        result
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.exporter.shutdown()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Counts the spans that do not fit into the queue, because the SDK's own processor drops them silently.
#[derive(Debug)]
struct BoundedProcessor {
    processor: BatchSpanProcessor,
    spans: Arc<Spans>,
}

impl SpanProcessor for BoundedProcessor {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.processor.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.spans.try_queue() {
            self.processor.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.processor.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> Result<(), OTelSdkError> {
        self.processor.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.processor.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_is_bounded_and_dropped_spans_are_counted() {
        let spans = Spans::default();
        assert_eq!((0..QUEUED_MAX + 3).filter(|_| spans.try_queue()).count(), QUEUED_MAX);
        assert_eq!((spans.queued(), spans.dropped()), (QUEUED_MAX, 3));
        spans.queued.fetch_sub(5, Ordering::Relaxed);
        spans.sent(5, &Err(OTelSdkError::AlreadyShutdown));
        assert!(spans.try_queue());
        assert_eq!((spans.queued(), spans.dropped()), (QUEUED_MAX - 4, 8));
    }
}
