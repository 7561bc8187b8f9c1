//! W3C Trace Context, copied from the event to every outgoing message and call.

use std::{collections::BTreeMap, fmt::Write};

use super::header;

/// Trace id, parent span and flags of a message (<https://www.w3.org/TR/trace-context/>).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: String,
    parent_id: String,
    flags: u8,
    state: Option<String>,
    is_begun: bool,
}

/// Flag bit: the caller records this trace.
const SAMPLED: u8 = 1;

impl TraceContext {
    /// Continues the trace in `headers`, or starts a new one if they hold none.
    #[must_use]
    pub fn of(headers: &BTreeMap<String, String>) -> Self {
        let state =
            headers.get(header::TRACESTATE).filter(|state| !state.is_empty() && state.len() <= 512).cloned();
        headers
            .get(header::TRACEPARENT)
            .and_then(|value| Self::parse(value))
            .map_or_else(Self::begin, |context| Self { state, ..context })
    }

    fn parse(value: &str) -> Option<Self> {
        let mut parts = value.split('-');
        let mut hex = |length: usize| {
            let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            parts.next().filter(|part| part.len() == length && part.bytes().all(lower_hex))
        };
        let (version, trace_id, parent_id, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let zero = |id: &str| id.bytes().all(|b| b == b'0');
        let known = version != "ff" && (version != "00" || parts.next().is_none());
        (known && !zero(trace_id) && !zero(parent_id)).then(|| Self {
            trace_id: trace_id.to_owned(),
            parent_id: parent_id.to_owned(),
            flags: u8::from_str_radix(flags, 16).unwrap_or_default(),
            state: None,
            is_begun: false,
        })
    }

    fn begin() -> Self {
        let (trace_id, parent_id) = (random_hex(2), random_hex(1));
        Self { trace_id, parent_id, flags: SAMPLED, state: None, is_begun: true }
    }

    /// Context of a span of this program; both ids are hexadecimal. `tracestate` is kept only within the same trace.
    #[must_use]
    pub fn of_span(&self, trace_id: String, span_id: String) -> Self {
        let state = self.state.clone().filter(|_| trace_id == self.trace_id);
        Self { trace_id, parent_id: span_id, flags: self.flags | SAMPLED, state, is_begun: false }
    }

    /// The same context with the sampled flag cleared.
    #[must_use]
    pub fn unsampled(&self) -> Self {
        Self { flags: self.flags & !SAMPLED, ..self.clone() }
    }

    /// True if the trace was started here because the message had none. Its parent id then names no real span.
    #[must_use]
    pub const fn is_begun(&self) -> bool {
        self.is_begun
    }

    /// True if the caller records this trace.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// 32 hexadecimal digits, for logs.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        &self.trace_id
    }

    /// 16 hexadecimal digits.
    #[must_use]
    pub fn parent_id(&self) -> &str {
        &self.parent_id
    }

    /// The `traceparent` header.
    #[must_use]
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", self.trace_id, self.parent_id, self.flags)
    }

    /// The `tracestate` header, if the message had one.
    #[must_use]
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }
}

/// `words` groups of 16 random hexadecimal digits, none all zero.
fn random_hex(words: usize) -> String {
    (0..words).fold(String::with_capacity(words * 16), |mut text, _| {
        _ = write!(text, "{:016x}", fastrand::u64(1..));
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(traceparent: &str) -> TraceContext {
        TraceContext::of(&BTreeMap::from([(header::TRACEPARENT.to_owned(), traceparent.to_owned())]))
    }

    #[test]
    fn trace_context_continues_with_the_same_trace_id() {
        let received = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let headers = [(header::TRACEPARENT, received), (header::TRACESTATE, "vendor=1")];
        let context =
            TraceContext::of(&headers.map(|(name, text)| (name.to_owned(), text.to_owned())).into());
        assert_eq!((context.traceparent().as_str(), context.tracestate()), (received, Some("vendor=1")));
        assert!(!context.is_sampled() && !context.is_begun());
        let span = context.of_span(context.trace_id().to_owned(), "1".repeat(16));
        assert_eq!(span.traceparent(), "00-4bf92f3577b34da6a3ce929d0e0e4736-1111111111111111-01");
        assert_eq!(span.tracestate(), Some("vendor=1"));
        let other_trace = context.of_span("2".repeat(32), "1".repeat(16));
        assert_eq!(other_trace.tracestate(), None);
        assert_eq!(of(&other_trace.traceparent()), other_trace);
    }

    #[test]
    fn invalid_traceparent_starts_a_new_trace() {
        for wrong in [
            "",
            "00-0-0-0",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        ] {
            let context = of(wrong);
            assert!(TraceContext::parse(&context.traceparent()).is_some());
            assert!(!wrong.contains(context.trace_id()));
        }
    }
}
