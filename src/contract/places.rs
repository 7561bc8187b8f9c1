//! Places in a JSON text for error messages. Fields of the contract appear by name, keys that a publisher chose by position.

use std::fmt::{self, Write};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use serde_path_to_error::Segment;

/// Names of all fields of the contract and of the Webex responses.
const FIELDS: [&str; 39] = [
    "address",
    "attributes",
    "baseUrl",
    "channel",
    "cipher",
    "correlationId",
    "data",
    "devices",
    "email",
    "eventId",
    "expert",
    "experts",
    "expiresAt",
    "guest",
    "guests",
    "host",
    "hostLogin",
    "hosts",
    "id",
    "items",
    "locale",
    "name",
    "notBefore",
    "personId",
    "roomId",
    "sessionId",
    "short",
    "source",
    "specversion",
    "subject",
    "text",
    "time",
    "timeZone",
    "to",
    "traceparent",
    "tracestate",
    "type",
    "url",
    "vertical",
];

/// Greatest number of steps in a path. The contract's fields are at most five steps deep; the rest is shown as `…`.
const STEPS_MAX: usize = 8;

/// The field whose keys a publisher chooses. It also stands for any other object with such keys.
pub(crate) const BY_PUBLISHER: &str = "attributes";

/// True if the field `name` inside the field `parent` belongs to the contract. Its name is then not private.
pub(crate) fn is_ours(parent: &str, name: &str) -> bool {
    parent != BY_PUBLISHER && FIELDS.contains(&name)
}

/// Path of the place that `segments` lead to in `body`, such as `guests[1].address` or `attributes.(key 3 of 5)`. It has at most
/// [`STEPS_MAX`] steps, because a hostile body is nested 127 deep.
pub(super) fn path(body: &[u8], segments: &[&Segment]) -> String {
    let mut path = String::new();
    let mut parent = "";
    for (number, segment) in segments.iter().enumerate() {
        if number == STEPS_MAX {
            join(&mut path, "…");
            break;
        }
        match segment {
            Segment::Seq { index } => _ = write!(path, "[{index}]"),
            Segment::Map { key: name } | Segment::Enum { variant: name } => {
                if is_ours(parent, name) {
                    join(&mut path, name);
                    parent = name;
                } else {
                    join(&mut path, &key_position(body, &segments[..=number]));
                    parent = BY_PUBLISHER;
                }
            }
            Segment::Unknown => join(&mut path, "?"),
        }
    }
    path
}

/// Position of the last segment's key in its object, such as `(key 3 of 5)`. It replaces the name, which may be private.
pub(super) fn key_position(body: &[u8], segments: &[&Segment]) -> String {
    let text = std::str::from_utf8(body).ok();
    match text.and_then(|text| position(text, segments)) {
        Some((number, count)) => format!("(key {number} of {count})"),
        None => "(a key)".to_owned(),
    }
}

/// The JSON Pointer (RFC 6901) of a path that [`path`] made. It ends before a step that has no name there.
pub(super) fn pointer(path: &str) -> String {
    let mut pointer = String::new();
    for step in path.split('.').filter(|step| !step.is_empty()) {
        let (name, indices) = step.split_once('[').unwrap_or((step, ""));
        if name.starts_with(['(', '…', '?']) {
            break;
        }
        for part in std::iter::once(name).chain(indices.split(['[', ']'])).filter(|part| !part.is_empty()) {
            pointer.push('/');
            pointer.push_str(part);
        }
    }
    pointer
}

pub(super) fn join(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// Returns `name` if it looks like an identifier, else its length.
pub(super) fn identifier(name: &str) -> String {
    let is_identifier = name.len() <= 40
        && name.bytes().filter(u8::is_ascii_digit).count() < 7
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if is_identifier { name.to_owned() } else { format!("(a name of {} bytes)", name.len()) }
}

fn position(json: &str, segments: &[&Segment]) -> Option<(usize, usize)> {
    let (first, rest) = segments.split_first()?;
    match first {
        Segment::Map { key } => {
            let PlaceEntries(entries) = serde_json::from_str(json).ok()?;
            // If a key is given twice, the error is about the second one.
            let number = entries.iter().rposition(|(name, _)| name == key)?;
            if rest.is_empty() {
                Some((number + 1, entries.len()))
            } else {
                position(entries[number].1.get(), rest)
            }
        }
        Segment::Seq { index } => {
            let items: Vec<&RawValue> = serde_json::from_str(json).ok()?;
            position(items.get(*index)?.get(), rest)
        }
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

/// An object's entries in text order.
struct PlaceEntries<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for PlaceEntries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ordered;

        impl<'de> Visitor<'de> for Ordered {
            type Value = PlaceEntries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(PlaceEntries(entries))
            }
        }

        deserializer.deserialize_map(Ordered)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    // Random calls, seed 9013438923667486157: a body of 127 nested objects made an error of more than 1,000 bytes.
    #[test]
    fn path_of_a_deeply_nested_value_is_short() {
        for (level, step) in [(r#"{"key":"#, "(a key)"), ("[", "[0]"), (r#"[{"key":"#, "[0]")] {
            let body = format!(r#"{{"items":{}"#, level.repeat(200));
            let error = super::super::decode::from_json::<Value>(body.as_bytes()).unwrap_err().to_string();
            assert!(
                error.ends_with("`: nested too deeply") && error.contains(step) && error.len() < 120,
                "{error}"
            );
        }
    }

    #[test]
    fn pointer_ends_before_a_key_that_a_publisher_chose() {
        for (path, expected) in [
            ("", ""),
            ("sessionId", "/sessionId"),
            ("guests[1].address", "/guests/1/address"),
            ("data.devices[12]", "/data/devices/12"),
            ("attributes.(key 3 of 5)", "/attributes"),
            ("items[0][1].….x", "/items/0/1"),
        ] {
            assert_eq!(pointer(path), expected);
        }
    }

    #[test]
    fn every_schema_field_is_a_contract_field() {
        fn names(value: &Value, found: &mut Vec<String>) {
            if let Some(properties) = value.get("properties").and_then(Value::as_object) {
                found.extend(properties.keys().cloned());
            }
            match value {
                Value::Object(fields) => fields.values().for_each(|value| names(value, found)),
                Value::Array(items) => items.iter().for_each(|value| names(value, found)),
                _ => {}
            }
        }
        for schema in ["start-session", "guest-link", "host-link"] {
            let path = format!("{}/config/schemas/{schema}.v1.json", env!("CARGO_MANIFEST_DIR"));
            let schema: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            let mut found = Vec::new();
            names(&schema, &mut found);
            assert!(found.len() > 5);
            for name in found {
                assert!(is_ours("", &name), "{name}");
            }
        }
    }
}
