//! Traces: a span for each delivery that is worked on, each call over HTTP and each message that is published, named and
//! attributed by OpenTelemetry's conventions
//! (<https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/>, <https://opentelemetry.io/docs/specs/semconv/http/>).
//!
//! Made with OpenTelemetry's own API and not by `tracing-opentelemetry`: spans begin in three places only, and what
//! matters most is whose id goes into which header, which is plain to see where the span is a value. The log's events
//! are no part of them.
//!
//! A span shows nothing private: queues, exchanges and keys are this program's own; what came from outside (a routing
//! key, a `tracestate`, a query) is left out, ids are as in the logs, reasons are those of the dead letters' headers.

use std::{borrow::Cow, fmt, path::Path, sync::Arc, time::Duration};

use opentelemetry::{
    Context, KeyValue, StringValue, Value,
    trace::{
        Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags,
        TraceId, TraceState, Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span as SdkSpan};
use tracing::warn;
use url::Url;

use super::otlp::{self, Spans};
use crate::{config::TraceRelation, contract::trace::TraceContext};

/// How long the end of the program waits for the last spans to be sent.
const FLUSH: Duration = Duration::from_millis(1500);

/// Begins spans, and sends them to a collector. Without one it does nothing, at next to no cost.
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
    /// Sends spans to `endpoint`, the whole URL of a collector that takes OTLP over HTTP. A delivery's span is in
    /// `relation` to whoever published it. CAs in `ca_file` are trusted beside the system's. Must be called within a runtime. Where it can't be set up, that is said, and
    /// work goes on without.
    #[must_use]
    pub fn start(endpoint: &Url, relation: TraceRelation, ca_file: Option<&Path>) -> Self {
        let spans = Arc::new(Spans::default());
        match otlp::provider(endpoint, ca_file, &spans) {
            Ok(provider) => {
                let tracer = provider.tracer(env!("CARGO_PKG_NAME"));
                Self(Some(Arc::new(TracerState { tracer, provider, relation, spans })))
            }
            Err(error) => {
                warn!(%error, "no spans are sent");
                Self::default()
            }
        }
    }

    /// The work on a delivery of `queue` by the stage called `stage`, whose event is called `event_id` in logs, and whose
    /// publisher is known by `came`.
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
            // The exchange and the routing key, which the conventions put before the queue, may be anybody's.
            KeyValue::new("messaging.destination.name", queue.to_owned()),
            KeyValue::new("instant_connect.stage", stage),
            KeyValue::new("instant_connect.event_id", event_id.to_owned()),
        ];
        let builder = SpanBuilder::from_name(format!("process {queue}"))
            .with_kind(SpanKind::Consumer)
            .with_attributes(attributes);
        // What the publisher does not record is carried on and not recorded here either, in both relations.
        let linked = inner.relation == TraceRelation::Link && came.is_sampled() && !came.is_begun();
        if came.is_begun() {
            inner.begin(builder, None, came)
        } else if linked {
            let link = Link::new(span_context(came), Vec::new(), 0);
            inner.begin(builder.with_links(vec![link]), None, came)
        } else {
            inner.begin(builder, Some(came), came)
        }
    }

    /// The publishing of a message, up to its confirm. Both names are this program's own, and so is `message_id`, or it
    /// is as logs may show it.
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

    /// A call of `url` over HTTP, whose query is not shown: it may name a person.
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

    /// Spans that were given up so far: no collector took them, or they were too many.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.spans.dropped())
    }

    /// Sends what is left, for a short time at most. Nothing is sent from here on.
    pub async fn shut_down(&self) {
        let Some(inner) = &self.0 else { return };
        let provider = inner.provider.clone();
        // The SDK waits by blocking its thread.
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH)).await;
        let sent = ended.is_ok_and(|ended| ended.is_ok());
        let dropped = inner.spans.dropped();
        if !sent || dropped > 0 {
            warn!(dropped, left = inner.spans.queued(), "not all spans were sent");
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
            Some(parent) => context.with_remote_span_context(span_context(parent)),
            None => context,
        };
        let span = self.tracer.build_with_context(builder, &context);
        if !span.is_recording() {
            // A span that nobody will see is no parent.
            return DeliverySpan { span: None, context: came.unsampled() };
        }
        let ids = span.span_context();
        let context = came.of_span(ids.trace_id().to_string(), ids.span_id().to_string());
        DeliverySpan { span: Some(span), context }
    }
}

fn span_context(context: &TraceContext) -> SpanContext {
    SpanContext::new(
        TraceId::from_hex(context.trace_id()).unwrap_or(TraceId::INVALID),
        SpanId::from_hex(context.parent_id()).unwrap_or(SpanId::INVALID),
        if context.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED },
        true,
        // Others' text: carried on, and not shown in spans.
        TraceState::NONE,
    )
}

/// Something that takes time. It ends when it is dropped.
#[derive(Debug)]
pub struct DeliverySpan {
    span: Option<SdkSpan>,
    context: TraceContext,
}

impl DeliverySpan {
    fn none(context: &TraceContext) -> Self {
        Self { span: None, context: context.clone() }
    }

    /// What goes into the headers of all that is sent within this span.
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

    /// Sets an attribute that the conventions have as a list, with one item; otherwise as [`DeliverySpan::set`].
    pub fn set_list(&mut self, key: &'static str, item: &str) {
        self.set(key, Value::Array(vec![StringValue::from(item.to_owned())].into()));
    }

    /// It failed: `kind` is one of a few, `reason` is for a person and shows nothing private.
    pub fn fail(&mut self, kind: impl Into<Cow<'static, str>>, reason: &str) {
        if let Some(span) = &mut self.span {
            span.set_attribute(KeyValue::new("error.type", Value::from(kind.into())));
            span.set_status(Status::error(reason.to_owned()));
        }
    }
}
