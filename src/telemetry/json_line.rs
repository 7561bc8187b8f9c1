//! The JSON form of a log line: one flat object. The fields of the delivery's span come before those of the event, so each
//! line about a delivery has `event_id`, `trace_id`, `stage` and `attempt`.

use std::{fmt, io::Write as _};

use jiff::Timestamp;
use serde::Serialize;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
};
use tracing_subscriber::{
    Layer,
    fmt::{
        FmtContext,
        format::{FormatEvent, FormatFields, Writer},
    },
    layer::Context,
    registry::{LookupSpan, Scope},
};

/// Writes events as JSON objects.
pub(super) struct JsonLine;

/// Keeps the fields of each span as JSON.
pub(super) struct SpanFields;

/// The fields of an event or a span, in their order, as JSON. The field `message` is apart.
#[derive(Default)]
struct JsonFields {
    /// Empty, or a JSON string.
    message: Vec<u8>,
    /// The members: each a comma, the name, a colon and the value.
    members: Vec<u8>,
    /// The name of each member, and where the member ends.
    names: Vec<(&'static str, usize)>,
}

impl JsonFields {
    fn add(&mut self, field: &Field, value: impl Serialize) {
        // Writing to memory fails only if a value cannot be JSON, and these can.
        if field.name() == "message" {
            self.message.clear();
            _ = serde_json::to_writer(&mut self.message, &value);
            return;
        }
        self.members.push(b',');
        _ = serde_json::to_writer(&mut self.members, field.name());
        self.members.push(b':');
        _ = serde_json::to_writer(&mut self.members, &value);
        self.names.push((field.name(), self.members.len()));
    }

    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|(own, _)| *own == name)
    }

    /// Appends the members that `other` does not have.
    fn append_to(&self, line: &mut Vec<u8>, other: &Self) {
        let mut start = 0;
        for (name, end) in &self.names {
            if !other.has(name) {
                line.extend_from_slice(&self.members[start..*end]);
            }
            start = *end;
        }
    }
}

impl Visit for JsonFields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for SpanFields {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = JsonFields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }
}

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut own = JsonFields::default();
        event.record(&mut own);
        let mut line = Vec::with_capacity(512);
        // The time and the level need no escapes.
        _ = write!(
            line,
            r#"{{"timestamp":"{:.6}","level":"{}","message":"#,
            Timestamp::now(),
            event.metadata().level()
        );
        line.extend_from_slice(if own.message.is_empty() { b"\"\"" } else { &own.message });
        for span in context.event_scope().into_iter().flat_map(Scope::from_root) {
            if let Some(fields) = span.extensions().get::<JsonFields>() {
                fields.append_to(&mut line, &own);
            }
        }
        line.extend_from_slice(&own.members);
        line.extend_from_slice(b"}\n");
        writer.write_str(&String::from_utf8_lossy(&line))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use serde_json::{Value, json};
    use tracing::{error_span, info, subscriber::with_default, warn};
    use tracing_subscriber::{Layer as _, fmt::layer, layer::SubscriberExt as _, registry};

    use super::*;

    #[derive(Clone, Default)]
    struct KeptLines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for KeptLines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that `work` logs, without their times.
    fn lines(work: impl FnOnce()) -> Vec<Value> {
        let lines = KeptLines::default();
        let writer = lines.clone();
        let layer = layer().event_format(JsonLine).with_writer(move || writer.clone()).with_ansi(false);
        with_default(registry().with(SpanFields.and_then(layer)), work);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let parse = |line: &str| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            let time = line.as_object_mut().unwrap().remove("timestamp").unwrap();
            time.as_str().unwrap().parse::<Timestamp>().unwrap();
            line
        };
        text.lines().map(parse).collect()
    }

    #[test]
    fn line_has_the_fields_of_its_span_and_its_own() {
        let got = lines(|| {
            let outer =
                error_span!("outer", event_id = "e\"1\n", attempt = 1_u32, empty = tracing::field::Empty);
            let _outer = outer.enter();
            let inner = error_span!("inner", stage = "link");
            let _inner = inner.enter();
            info!(
                duration_ms = 1.5,
                ok = true,
                left = -3,
                odd = f64::NAN,
                none = None::<&str>,
                "a \"quoted\" \u{7f}\ntext"
            );
            warn!(attempt = 2_u32, stage = ?Some("host"), error = %"é\u{1}");
            warn!(attempt = 3_u32);
        });
        let first = json!({
            "level": "INFO", "message": "a \"quoted\" \u{7f}\ntext", "event_id": "e\"1\n", "attempt": 1, "stage": "link",
            "duration_ms": 1.5, "ok": true, "left": -3, "odd": null,
        });
        let second = json!({
            "level": "WARN", "message": "", "event_id": "e\"1\n", "attempt": 2, "stage": "Some(\"host\")", "error": "é\u{1}",
        });
        let third =
            json!({"level": "WARN", "message": "", "event_id": "e\"1\n", "stage": "link", "attempt": 3});
        assert_eq!(got, [first, second, third], "a field of the line replaces the same field of the span");
    }
}
