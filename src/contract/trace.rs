//! W3C Trace Context, copied from the event to every outgoing message and call.

use std::collections::BTreeMap;

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

use super::header;
use crate::random::Random;

/// Trace id, parent span, flags and vendor-specific state of a message (<https://www.w3.org/TR/trace-context/>).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Without the `tracestate`, because this context becomes a part of spans.
    span: SpanContext,
    /// The `tracestate`: text from outside, forwarded unread and not shown in spans.
    state: Option<String>,
    is_begun: bool,
}

impl TraceContext {
    /// The trace in `headers`, if they hold one.
    #[must_use]
    pub fn of(headers: &BTreeMap<String, String>) -> Option<Self> {
        let state =
            headers.get(header::TRACESTATE).filter(|state| !state.is_empty() && state.len() <= 512).cloned();
        let span = headers.get(header::TRACEPARENT).and_then(|value| parse(value))?;
        Some(Self { span, state, is_begun: false })
    }

    /// Starts a new trace, for a message without one. `random` makes its ids.
    #[must_use]
    pub fn begin(random: &Random) -> Self {
        let id = || random.u64(1..);
        let trace_id = TraceId::from(u128::from(id()) << 64 | u128::from(id()));
        let span = context(trace_id, SpanId::from(id()), TraceFlags::SAMPLED);
        Self { span, state: None, is_begun: true }
    }

    /// Context of a span of this program. `tracestate` is kept only within the same trace.
    #[must_use]
    pub fn of_span(&self, span: &SpanContext) -> Self {
        let state = self.state.clone().filter(|_| span.trace_id() == self.span.trace_id());
        let flags = self.span.trace_flags().with_sampled(true);
        Self { span: context(span.trace_id(), span.span_id(), flags), state, is_begun: false }
    }

    /// The same context with the sampled flag cleared.
    #[must_use]
    pub fn unsampled(&self) -> Self {
        let flags = self.span.trace_flags().with_sampled(false);
        Self { span: context(self.span.trace_id(), self.span.span_id(), flags), ..self.clone() }
    }

    /// The parent of spans, without the `tracestate`.
    #[must_use]
    pub const fn span(&self) -> &SpanContext {
        &self.span
    }

    /// True if the trace was started here because the message had none. Its parent id then names no real span.
    #[must_use]
    pub const fn is_begun(&self) -> bool {
        self.is_begun
    }

    /// True if the caller records this trace.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.span.is_sampled()
    }

    /// 32 hexadecimal digits, for logs.
    #[must_use]
    pub fn trace_id(&self) -> String {
        self.span.trace_id().to_string()
    }

    /// The `traceparent` header.
    #[must_use]
    pub fn traceparent(&self) -> String {
        let flags = self.span.trace_flags();
        format!("00-{}-{}-{flags:02x}", self.span.trace_id(), self.span.span_id())
    }

    /// The `tracestate` header, if the message had one.
    #[must_use]
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }
}

fn context(trace_id: TraceId, span_id: SpanId, flags: TraceFlags) -> SpanContext {
    SpanContext::new(trace_id, span_id, flags, true, TraceState::NONE)
}

/// Reads a `traceparent` header. OpenTelemetry's own parser is not used: it belongs to the SDK, and drops the flags that it
/// does not know.
fn parse(value: &str) -> Option<SpanContext> {
    let mut parts = value.split('-');
    let mut hex = |length: usize| {
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        parts.next().filter(|part| part.len() == length && part.bytes().all(lower_hex))
    };
    let (version, trace_id, parent_id, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    let is_known = version != "ff" && (version != "00" || parts.next().is_none());
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let span = context(TraceId::from_hex(trace_id).ok()?, SpanId::from_hex(parent_id).ok()?, flags);
    (is_known && span.is_valid()).then_some(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(traceparent: &str) -> Option<TraceContext> {
        TraceContext::of(&BTreeMap::from([(header::TRACEPARENT.to_owned(), traceparent.to_owned())]))
    }

    #[test]
    fn trace_context_continues_with_the_same_trace_id() {
        let received = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let headers = [(header::TRACEPARENT, received), (header::TRACESTATE, "vendor=1")];
        let context =
            TraceContext::of(&headers.map(|(name, text)| (name.to_owned(), text.to_owned())).into()).unwrap();
        assert_eq!((context.traceparent().as_str(), context.tracestate()), (received, Some("vendor=1")));
        assert!(!context.is_sampled() && !context.is_begun());
        let of_span = |trace_id: &str| {
            let (trace_id, span_id) =
                (TraceId::from_hex(trace_id).unwrap(), SpanId::from(0x1111_1111_1111_1111));
            context.of_span(&SpanContext::new(
                trace_id,
                span_id,
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ))
        };
        let span = of_span(&context.trace_id());
        assert_eq!(span.traceparent(), "00-4bf92f3577b34da6a3ce929d0e0e4736-1111111111111111-01");
        assert_eq!(span.tracestate(), Some("vendor=1"));
        let other_trace = of_span(&"2".repeat(32));
        assert_eq!(other_trace.tracestate(), None);
        assert_eq!(of(&other_trace.traceparent()), Some(other_trace));
    }

    #[test]
    fn invalid_traceparent_is_no_trace() {
        for wrong in [
            "",
            "00-0-0-0",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn new_trace_is_sampled_and_has_ids_of_its_own() {
        let random = Random::system();
        let (one, other) = (TraceContext::begin(&random), TraceContext::begin(&random));
        assert!(one.is_begun() && one.is_sampled());
        assert_ne!(one.trace_id(), other.trace_id());
        assert_eq!(of(&one.traceparent()).unwrap().trace_id(), one.trace_id());
    }
}
