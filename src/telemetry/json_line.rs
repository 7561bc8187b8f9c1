//! The JSON form of a log line: one flat object. The fields of the delivery's span come before those of the event, so each
//! line about a delivery has `event_id`, `trace_id`, `stage` and `attempt`.

use std::fmt;

use jiff::Timestamp;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;
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

/// The fields of an event or a span, in their order.
#[derive(Default)]
struct JsonFields {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl JsonFields {
    fn add(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        } else {
            self.fields.push((field.name(), value));
        }
    }
}

impl Visit for JsonFields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}").into());
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
        let mut serializer = serde_json::Serializer::new(&mut line);
        let written = (|| {
            let mut map = serializer.serialize_map(None)?;
            map.serialize_entry("timestamp", &format_args!("{:.6}", Timestamp::now()))?;
            map.serialize_entry("level", event.metadata().level().as_str())?;
            map.serialize_entry("message", &own.message)?;
            for span in context.event_scope().into_iter().flat_map(Scope::from_root) {
                for (name, value) in
                    span.extensions().get::<JsonFields>().map_or(&[][..], |kept| &kept.fields)
                {
                    if own.fields.iter().all(|(own, _)| own != name) {
                        map.serialize_entry(name, value)?;
                    }
                }
            }
            for (name, value) in &own.fields {
                map.serialize_entry(name, value)?;
            }
            map.end()
        })();
        written.map_err(|_| fmt::Error)?;
        writeln!(writer, "{}", String::from_utf8_lossy(&line))
    }
}
