//! W3C Trace Context, carried from the event to everything that goes out.

use std::{collections::BTreeMap, fmt::Write};

use super::header;

/// Where a message stands in its trace (<https://www.w3.org/TR/trace-context/>).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: String,
    parent_id: String,
    flags: String,
    state: Option<String>,
}

impl TraceContext {
    /// Continues the trace that `headers` name, or begins one.
    #[must_use]
    pub fn of(headers: &BTreeMap<String, String>) -> Self {
        let state = headers.get(header::TRACESTATE).filter(|state| state.len() <= 512).cloned();
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
            flags: flags.to_owned(),
            state: None,
        })
    }

    fn begin() -> Self {
        Self { trace_id: random_hex(2), parent_id: random_hex(1), flags: "01".to_owned(), state: None }
    }

    /// The same trace, one step further on: what an outgoing message carries.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { parent_id: random_hex(1), ..self.clone() }
    }

    /// 32 hexadecimal digits, for logs.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        &self.trace_id
    }

    /// The `traceparent` header.
    #[must_use]
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-{}", self.trace_id, self.parent_id, self.flags)
    }

    /// The `tracestate` header, where one came.
    #[must_use]
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }
}

/// `words` times 16 hexadecimal digits, never all zero.
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
    fn a_trace_goes_on_under_its_id() {
        let context = of("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let child = context.child();
        assert_eq!(child.trace_id(), context.trace_id());
        assert_ne!(child.traceparent(), context.traceparent());
        assert!(child.traceparent().ends_with("-00"), "the caller's sampling decision stands");
    }

    #[test]
    fn what_is_no_trace_context_begins_a_new_one() {
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
