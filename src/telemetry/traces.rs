//! Traces: a span for each processed delivery, each HTTP call and each published message, with names and attributes by
//! OpenTelemetry's conventions
//! (<https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/>, <https://opentelemetry.io/docs/specs/semconv/http/>).
//!
//! This module uses OpenTelemetry's own API instead of `tracing-opentelemetry`. Spans start in only three places, and a span
//! that is a value makes visible which id goes into which header. Log events are not attached to spans.
//!
//! A span shows nothing private: queues, exchanges and keys are this program's own. Values from outside (a routing
//! key, a `tracestate`, a query) are left out. Ids are as in the logs, reasons as in the headers of dead letters.

use std::{borrow::Cow, fmt, path::Path, sync::Arc, time::Duration};

use opentelemetry::{
    Context, KeyValue, StringValue, Value,
    trace::{
        Link, Span as _, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span as SdkSpan};
use schemars::JsonSchema;
use serde::Deserialize;
use tracing::warn;
use url::Url;

use super::otlp::{self, Spans};
use crate::contract::trace::TraceContext;

/// `telemetry.trace_context`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TraceRelation {
    /// A delivery's span is a child of its publisher's span: one trace shows an event end to end.
    Parent,
    /// A delivery's span starts its own trace, with a link to its publisher's span.
    Link,
}

/// Time limit for sending the last spans at shutdown.
const FLUSH: Duration = Duration::from_millis(1500);

/// Creates spans and sends them to a collector. Without a collector it does nothing, at almost no cost.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<TracerState>>);

struct TracerState {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
    relation: TraceRelation,
    spans: Arc<Spans>,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tracer").field(&self.0.is_some()).finish()
    }
}

impl Tracer {
    /// Sends spans to `endpoint`, the whole URL of a collector for OTLP over HTTP. `relation` relates a delivery's span to
    /// its publisher's span. CAs in `ca_file` are trusted in addition to the system's. Must be called within a runtime. A
    /// failure is logged, and the worker continues without spans.
    #[must_use]
    pub fn start(endpoint: &Url, relation: TraceRelation, ca_file: Option<&Path>) -> Self {
        let spans = Arc::new(Spans::default());
        match otlp::provider(endpoint, ca_file, &spans) {
            Ok(provider) => {
                let tracer = provider.tracer(env!("CARGO_PKG_NAME"));
                Self(Some(Arc::new(TracerState { tracer, provider, relation, spans })))
            }
            Err(error) => {
                warn!(%error, "could not set up the OTLP exporter; no spans are sent");
                Self::default()
            }
        }
    }

    /// Starts the span of processing a delivery from `queue` in the stage `stage`. `event_id` is the event's id as in the
    /// logs, and `came` is the publisher's trace context.
    #[must_use]
    pub fn process(
        &self,
        queue: &str,
        stage: &'static str,
        event_id: &str,
        came: &TraceContext,
    ) -> DeliverySpan {
        let Some(inner) = &self.0 else { return DeliverySpan::none(came) };
        let attributes = vec![
            KeyValue::new("messaging.system", "rabbitmq"),
            KeyValue::new("messaging.operation.name", "process"),
            KeyValue::new("messaging.operation.type", "process"),
            // The conventions put exchange and routing key before the queue, but both may come from outside.
            KeyValue::new("messaging.destination.name", queue.to_owned()),
            KeyValue::new("instant_connect.stage", stage),
            KeyValue::new("instant_connect.event_id", event_id.to_owned()),
        ];
        let builder = SpanBuilder::from_name(format!("process {queue}"))
            .with_kind(SpanKind::Consumer)
            .with_attributes(attributes);
        // An unsampled context is passed on and not recorded here either, in both relations.
        let linked = inner.relation == TraceRelation::Link && came.is_sampled() && !came.is_begun();
        if came.is_begun() {
            inner.begin(builder, None, came)
        } else if linked {
            let link = Link::new(came.span().clone(), Vec::new(), 0);
            inner.begin(builder.with_links(vec![link]), None, came)
        } else {
            inner.begin(builder, Some(came), came)
        }
    }

    /// Starts the span of publishing a message, up to its confirm. Both names are this program's own. `message_id` is also
    /// its own, or in the form for logs.
    #[must_use]
    pub fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        message_id: Option<&str>,
        within: &TraceContext,
    ) -> DeliverySpan {
        let Some(inner) = &self.0 else { return DeliverySpan::none(within) };
        // The default exchange has no name, and its routing keys are queues.
        let destination =
            if exchange.is_empty() { routing_key.to_owned() } else { format!("{exchange}:{routing_key}") };
        let mut attributes = vec![
            KeyValue::new("messaging.system", "rabbitmq"),
            KeyValue::new("messaging.operation.name", "publish"),
            KeyValue::new("messaging.operation.type", "send"),
            KeyValue::new("messaging.destination.name", destination.clone()),
            KeyValue::new("messaging.rabbitmq.destination.routing_key", routing_key.to_owned()),
        ];
        attributes.extend(message_id.map(|id| KeyValue::new("messaging.message.id", id.to_owned())));
        let builder = SpanBuilder::from_name(format!("publish {destination}"))
            .with_kind(SpanKind::Producer)
            .with_attributes(attributes);
        inner.begin(builder, Some(within), within)
    }

    /// Starts the span of serving an HTTP request. `route` is the path's template, because a path may name a session.
    #[must_use]
    pub fn serve(&self, method: &'static str, route: &'static str, came: &TraceContext) -> DeliverySpan {
        let Some(inner) = &self.0 else { return DeliverySpan::none(came) };
        let attributes =
            vec![KeyValue::new("http.request.method", method), KeyValue::new("http.route", route)];
        let builder = SpanBuilder::from_name(format!("{method} {route}"))
            .with_kind(SpanKind::Server)
            .with_attributes(attributes);
        inner.begin(builder, Some(came).filter(|came| !came.is_begun()), came)
    }

    /// Starts the span of an HTTP call. The query of `url` is not shown because it may name a person.
    #[must_use]
    pub fn call(&self, method: &str, url: &Url, within: &TraceContext) -> DeliverySpan {
        let Some(inner) = &self.0 else { return DeliverySpan::none(within) };
        let mut shown = url.clone();
        shown.set_query(None);
        let attributes = vec![
            KeyValue::new("http.request.method", method.to_owned()),
            KeyValue::new("server.address", url.host_str().unwrap_or_default().to_owned()),
            KeyValue::new("server.port", i64::from(url.port_or_known_default().unwrap_or_default())),
            KeyValue::new("url.full", String::from(shown)),
        ];
        let builder =
            SpanBuilder::from_name(method.to_owned()).with_kind(SpanKind::Client).with_attributes(attributes);
        inner.begin(builder, Some(within), within)
    }

    /// Number of spans dropped so far, because no collector accepted them or the queue was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.spans.dropped())
    }

    /// Sends the remaining spans within a short time limit. No spans are sent afterwards.
    pub async fn shut_down(&self) {
        let Some(inner) = &self.0 else { return };
        let provider = inner.provider.clone();
        // The SDK blocks its thread while it waits.
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH)).await;
        let sent = ended.is_ok_and(|ended| ended.is_ok());
        let dropped = inner.spans.dropped();
        if !sent || dropped > 0 {
            warn!(dropped, left = inner.spans.queued(), "shutdown: some spans were not exported");
        }
    }
}

impl TracerState {
    fn begin(
        &self,
        builder: SpanBuilder,
        parent: Option<&TraceContext>,
        came: &TraceContext,
    ) -> DeliverySpan {
        let context = Context::new();
        let context = match parent {
            Some(parent) => context.with_remote_span_context(parent.span().clone()),
            None => context,
        };
        let span = self.tracer.build_with_context(builder, &context);
        if !span.is_recording() {
            // An unrecorded span must not become a parent.
            return DeliverySpan { span: None, context: came.unsampled() };
        }
        let context = came.of_span(span.span_context());
        DeliverySpan { span: Some(span), context }
    }
}

/// A span in progress, which ends when it is dropped.
#[derive(Debug)]
pub struct DeliverySpan {
    span: Option<SdkSpan>,
    context: TraceContext,
}

impl DeliverySpan {
    fn none(context: &TraceContext) -> Self {
        Self { span: None, context: context.clone() }
    }

    /// The trace context for the headers of everything that is sent within this span.
    #[must_use]
    pub const fn context(&self) -> &TraceContext {
        &self.context
    }

    /// Sets an attribute, which must show nothing private.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.span {
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Sets an attribute that is a list by convention, with one item; see [`DeliverySpan::set`].
    pub fn set_list(&mut self, key: &'static str, item: &str) {
        self.set(key, Value::Array(vec![StringValue::from(item.to_owned())].into()));
    }

    /// Marks the span as failed. `kind` is one of a few values; `reason` is for a person and shows nothing private.
    pub fn fail(&mut self, kind: impl Into<Cow<'static, str>>, reason: &str) {
        if let Some(span) = &mut self.span {
            span.set_attribute(KeyValue::new("error.type", Value::from(kind.into())));
            span.set_status(Status::error(reason.to_owned()));
        }
    }
}
