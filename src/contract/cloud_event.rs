//! CloudEvents 1.0 envelopes of start events. Structured mode is `application/cloudevents+json`. Binary mode has attributes as
//! headers `cloudEvents:…` (CloudEvents AMQP binding) or `cloudEvents_…` (RabbitMQ's mapping).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{
    decode::{self, Invalid, Problem},
    ids,
    message::Message,
};

/// A message without its CloudEvents envelope, if it had one.
#[derive(Debug)]
pub struct Unwrapped<'a> {
    /// The start event's JSON.
    pub data: &'a [u8],
    /// The event id that [`ids::cloud_event`] makes of the CloudEvents `source` and `id`.
    pub id: Option<String>,
    /// Path of the start event in the body, for errors: `data` in a structured event, else empty.
    pub path: &'static str,
    /// The CloudEvents `time`, if present and valid.
    pub time: Option<Timestamp>,
    /// The extension attributes `traceparent` and `tracestate`, if present.
    pub trace: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Structured<'a> {
    specversion: String,
    id: String,
    #[serde(rename = "type")]
    kind: String,
    source: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    time: Option<String>,
    traceparent: Option<String>,
    tracestate: Option<String>,
}

/// Removes the CloudEvents envelope of `message`, if it has one.
///
/// # Errors
/// [`Invalid`] if the envelope is not a valid CloudEvent, or is an unsupported format.
pub fn unwrap(message: &Message) -> Result<Unwrapped<'_>, Invalid> {
    let media_type = message.content_type.as_deref().unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/cloudevents+json") {
        return structured(&message.body);
    }
    let prefix = "application/cloudevents";
    if media_type.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix)) {
        return Err(Invalid::new(
            "",
            "expected a CloudEvent as application/cloudevents+json, not a batch or another format",
        ));
    }
    if message.header("cloudEvents:specversion").or(message.header("cloudEvents_specversion")).is_none() {
        match Shape::of(&message.body) {
            Shape::CloudEvent => return structured(&message.body),
            Shape::MassTransit => return Err(envelope("MassTransit", "UseRawJsonSerializer")),
            Shape::Plain => {}
        }
    }
    let attribute = |name: &str| {
        [':', '_']
            .iter()
            .find_map(|separator| message.header(&format!("cloudEvents{separator}{name}")))
            .map(str::to_owned)
    };
    if let Some(version) = attribute("specversion") {
        check_version(&version)?;
    }
    let trace = ["traceparent", "tracestate"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), attribute(name)?)));
    Ok(Unwrapped {
        data: &message.body,
        id: attribute("id").map(|id| ids::cloud_event(attribute("source").as_deref(), &id)),
        path: "",
        time: attribute("time").as_deref().and_then(time),
        trace: trace.collect(),
    })
}

/// Parses a time. Zero values (the year 1 or the epoch) count as none, because libraries write them for an unset time.
fn time(text: &str) -> Option<Timestamp> {
    text.parse().ok().filter(|time: &Timestamp| time.as_second() > 0)
}

/// Format of a body, judged by its fields and not by its content type. Dapr and others send structured CloudEvents as
/// `application/json` or `text/plain`, and some libraries wrap messages in envelopes of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    CloudEvent,
    MassTransit,
    Plain,
}

impl Shape {
    fn of(body: &[u8]) -> Self {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct EventFields {
            specversion: Option<IgnoredAny>,
            message_type: Option<IgnoredAny>,
            message: Option<IgnoredAny>,
        }

        // Start events have no such fields, so hardly any body is parsed twice.
        let contains = |name: &[u8]| body.windows(name.len()).any(|window| window == name);
        if !contains(b"\"specversion\"") && !contains(b"\"messageType\"") {
            return Self::Plain;
        }
        match decode::from_json::<EventFields>(body) {
            Ok(EventFields { specversion: Some(_), .. }) => Self::CloudEvent,
            Ok(EventFields { message_type: Some(_), message: Some(_), .. }) => Self::MassTransit,
            _ => Self::Plain,
        }
    }
}

fn envelope(library: &str, setting: &str) -> Invalid {
    Invalid::new(
        "",
        format!(
            "expected the start event itself, not a {library} envelope; configure the sender with {setting}, or send a CloudEvent"
        ),
    )
}

/// Hint for an unreadable `message` that was sent by a library with its own envelope.
#[must_use]
pub fn sender_hint(message: &Message) -> Option<&'static str> {
    let is_nservicebus = message.headers.keys().any(|name| name.starts_with("NServiceBus."));
    is_nservicebus
        .then_some("sent by NServiceBus: the body must be the start event alone, as JSON without $type")
}

fn structured(body: &[u8]) -> Result<Unwrapped<'_>, Invalid> {
    let event: Structured<'_> = decode::from_json(body)?;
    check_version(&event.specversion)?;
    for (name, value) in [("id", &event.id), ("type", &event.kind), ("source", &event.source)] {
        if value.is_empty() {
            return Err(Invalid::new(name, "expected a non-empty string"));
        }
    }
    let data = event
        .data
        .ok_or_else(|| Invalid::new("data", Problem::Missing).with_hint("data_base64 is not supported"))?;
    let trace = [("traceparent", event.traceparent), ("tracestate", event.tracestate)];
    Ok(Unwrapped {
        data: data.get().as_bytes(),
        id: Some(ids::cloud_event(Some(&event.source), &event.id)),
        path: "data",
        time: event.time.as_deref().and_then(time),
        trace: trace.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect(),
    })
}

fn check_version(version: &str) -> Result<(), Invalid> {
    if version == "1.0" { Ok(()) } else { Err(Invalid::new("specversion", "expected CloudEvents 1.0")) }
}
