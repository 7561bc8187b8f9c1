//! JSON Schema of the settings: the types and bounds of [`Config`], the defaults and comments of `config/default.toml`.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::{Map, Value, json};

use super::{Config, load::DEFAULTS, settings::CLIENT_NAME_MAX};
use crate::{
    contract::device::AllowList,
    ingress::config::{AddressBlock, KeyHeader},
    values::{BaseUrl, Bounded, Delays, Factor, NonEmpty, Period, PeriodOrZero, Prefix, SubjectPrefix},
};

/// The schema (draft 7, which Helm and editors read) of a settings file. Every section and key is optional, and unknown ones
/// are refused.
#[must_use]
pub fn schema() -> Value {
    let settings =
        SchemaSettings::draft07().for_deserialize().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Config>().to_value();
    let defaults: BTreeMap<String, toml::Table> = toml::from_str(DEFAULTS).unwrap_or_default();
    close(&mut schema);
    let about = comments(DEFAULTS);
    for (section, table) in &defaults {
        let described = &mut schema["properties"][section];
        close(described);
        for (key, default) in table {
            let about = about.get(&format!("{section}.{key}")).map_or("", String::as_str);
            let described = &mut described["properties"][key];
            *described = setting(described.take(), json!(default), about);
        }
    }
    let clients = &mut schema["properties"]["ingress"]["properties"]["clients"];
    clients["propertyNames"] = json!({"pattern": CLIENT_NAME, "maxLength": CLIENT_NAME_MAX});
    let described = &mut clients["additionalProperties"];
    close(described);
    let every = defaults.get("ingress").and_then(|ingress| ingress.get("clients")?.get("*")?.as_table());
    for (key, default) in every.into_iter().flatten() {
        let about = about.get(&format!("ingress.clients.\"*\".{key}")).map_or("", String::as_str);
        let described = &mut described["properties"][key];
        *described = setting(described.take(), json!(default), about);
    }
    let templates = &mut schema["properties"]["webex_connect"]["properties"]["whatsapp_templates"];
    templates["propertyNames"] = json!({"pattern": LOCALE});
    schema["title"] = json!("Settings of instant-connect-worker");
    schema["description"] = json!("Keys and defaults as in config/default.toml.");
    schema
}

/// Makes all properties optional and refuses others.
fn close(object: &mut Value) {
    if let Some(object) = object.as_object_mut() {
        object.remove("required");
        object.remove("title");
        object.remove("description");
        object.insert("additionalProperties".into(), json!(false));
    }
}

/// The schema of one key. Settings have no null, because the default means "not set".
fn setting(schema: Value, default: Value, about: &str) -> Value {
    let Value::Object(mut schema) = schema else { return schema };
    schema.remove("description");
    if drop_null(&mut schema) && (schema.len() > 1 || !schema.contains_key("type")) {
        schema = [("anyOf".to_owned(), json!([{"const": default}, schema]))].into_iter().collect();
    }
    if !about.is_empty() {
        schema.insert("description".into(), json!(about));
    }
    schema.insert("default".into(), default);
    Value::Object(schema)
}

/// Removes the null of an optional type; returns true if there was one.
fn drop_null(schema: &mut Map<String, Value>) -> bool {
    let mut found = false;
    for list in ["type", "enum", "anyOf"] {
        let Some(Value::Array(items)) = schema.get_mut(list) else { continue };
        let before = items.len();
        items.retain(|item| item != "null" && !item.is_null() && item["type"] != "null");
        found |= items.len() < before;
        if items.len() > 1 || list == "enum" {
            continue;
        }
        match (items.pop(), list) {
            (Some(Value::Object(only)), "anyOf") => {
                schema.remove(list);
                schema.extend(only);
            }
            (Some(only), _) => _ = schema.insert(list.into(), only),
            (None, _) => {}
        }
    }
    found
}

/// Returns the comment directly above each key.
fn comments(toml: &str) -> BTreeMap<String, String> {
    let (mut section, mut comment, mut found) = ("", Vec::new(), BTreeMap::new());
    for line in toml.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix('#') {
            comment.push(text.trim());
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        } else if let Some((key, _)) = line.split_once('=') {
            found.insert(format!("{section}.{}", key.trim()), comment.join(" "));
        }
        comment.clear();
    }
    found
}

/// An HTTP URL.
pub(super) struct HttpUrl;

/// A listen address, or `off`.
pub(super) struct Listen;

/// Implements [`JsonSchema`] with an inline schema.
macro_rules! schema_of {
    ($(($($generic:tt)*) $kind:ty => $schema:tt),+ $(,)?) => {$(
        impl<$($generic)*> JsonSchema for $kind {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($kind).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )+};
}

/// The name of a client of the ingress, or `*` for what all of them share.
const CLIENT_NAME: &str = "^(\\*|[a-z0-9-]+(_[a-z0-9-]+)*)$";

/// The locale of a template, or `*` in the defaults.
const LOCALE: &str = "^(\\*|[A-Za-z0-9]{1,8}(-[A-Za-z0-9]{1,8})*)$";

/// A duration above zero, in the notation of `config/default.toml`. (The program also reads ISO 8601 durations.)
const DURATION: &str = "^([0-9]+(ms|s|m|h) ?)*[0-9]*[1-9][0-9]*(ms|s|m|h)( ?[0-9]+(ms|s|m|h))*$";

/// As [`DURATION`], or zero.
const DURATION_OR_ZERO: &str = "^([0-9]+(ms|s|m|h) ?)*[0-9]+(ms|s|m|h)$";

schema_of! {
    (const MIN: u32, const MAX: u32) Bounded<MIN, MAX> => {"type": "integer", "minimum": MIN, "maximum": MAX},
    (const MIN: u32, const MAX: u32) Factor<MIN, MAX> => {"type": "number", "minimum": MIN, "maximum": MAX},
    () Period => {"type": "string", "pattern": DURATION},
    () PeriodOrZero => {"type": "string", "pattern": DURATION_OR_ZERO},
    () Delays => {"type": "array", "minItems": 1, "maxItems": 20, "items": {"type": "string", "pattern": DURATION}},
    () Prefix => {"type": "string", "pattern": "^[A-Za-z0-9_.:-]{1,200}$", "not": {"pattern": "^amq\\."}},
    () BaseUrl => {"type": "string", "pattern": "^https?://[^\\s()<>\\[\\]\"\\\\`?#@]+/$"},
    () NonEmpty => {"type": "string", "pattern": "[^\\s]"},
    () SubjectPrefix => {"type": "string", "maxLength": 64, "pattern": "^[A-Za-z0-9_-]*$"},
    () AllowList => {"type": "array", "items": {"type": "string", "pattern": "^([Ss][Ii][Pp]:)?[A-Za-z0-9._+*-]+@(\\*\\.)?[A-Za-z0-9.-]+$"}},
    () KeyHeader => {"type": "string", "pattern": "^[A-Za-z0-9-]+$"},
    () AddressBlock => {"type": "string", "pattern": "^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$"},
    () HttpUrl => {"type": "string", "pattern": "^https?://[^\\s?#@]+$"},
    () Listen => {"type": "string", "pattern": "^(|off|[0-9.]+:[0-9]+|\\[[0-9A-Fa-f:.]+\\]:[0-9]+)$"},
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;
    use crate::config::{Sources, load};

    /// Key with section, and schema, of each setting.
    fn settings() -> Vec<(String, Value)> {
        let schema = schema();
        let mut found = Vec::new();
        for (section, described) in schema["properties"].as_object().unwrap() {
            assert_eq!(described["additionalProperties"], json!(false), "{section}");
            for (key, described) in described["properties"].as_object().unwrap() {
                found.push((format!("{section}.{key}"), described.clone()));
            }
        }
        found
    }

    /// The schema itself, or the second alternative if the first is only the default.
    fn inner(schema: &Value) -> &Value {
        schema["anyOf"].as_array().map_or(schema, |alternatives| &alternatives[1])
    }

    /// The loader's error about the type or the bounds of one setting.
    fn type_error(key: &str, value: &Value) -> Option<String> {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let sources = Sources { flags: vec![format!("{key}={value}")], ..Sources::default() };
        let error = load(&sources).err()?.to_string();
        [
            "expected a whole",
            "expected 0 or a whole",
            "expected a number",
            "expected one of",
            "expected a duration",
        ]
        .iter()
        .any(|words| error.contains(words) && !error.contains("both are given"))
        .then_some(error)
    }

    #[test]
    fn schema_has_the_keys_of_the_defaults_and_no_null() {
        let defaults: BTreeMap<String, toml::Table> = toml::from_str(DEFAULTS).unwrap();
        let mut keys: Vec<_> = defaults
            .iter()
            .flat_map(|(section, table)| table.keys().map(move |key| format!("{section}.{key}")))
            .collect();
        keys.sort();
        assert_eq!(settings().into_iter().map(|(key, _)| key).collect::<Vec<_>>(), keys);
        let text = schema().to_string();
        for word in ["null", "$ref", "definitions", "required"] {
            assert!(!text.contains(&format!("\"{word}\"")), "{word}: {text}");
        }
    }

    #[test]
    fn schema_and_loader_have_the_same_bounds_and_names() {
        let mut checked = 0;
        for (key, schema) in settings() {
            let inner = inner(&schema);
            if let (Some(low), Some(high)) = (inner["minimum"].as_i64(), inner["maximum"].as_i64()) {
                checked += 1;
                for valid in [low, high] {
                    assert_eq!(type_error(&key, &json!(valid)), None, "{key} = {valid}");
                }
                for wrong in [low - 1, high + 1] {
                    let default = schema["default"] == json!(wrong);
                    assert!(default || type_error(&key, &json!(wrong)).is_some(), "{key} = {wrong}");
                }
            }
            let names: Vec<_> = match inner["oneOf"].as_array() {
                Some(named) => named.iter().map(|named| named["const"].clone()).collect(),
                None => inner["enum"].as_array().cloned().unwrap_or_default(),
            };
            for name in &names {
                checked += 1;
                assert_eq!(type_error(&key, name), None, "{key} = {name}");
            }
            if !names.is_empty() {
                let loaded = load(&Sources { flags: vec![format!("{key}=nonesuch")], ..Sources::default() });
                assert!(
                    loaded.is_err_and(|error| error.to_string().contains(&format!("{key} = \"nonesuch\""))),
                    "{key}"
                );
            }
        }
        assert!(checked > 30, "{checked}");
    }

    #[test]
    fn schema_and_loader_accept_the_same_durations() {
        let pattern = Regex::new(DURATION).unwrap();
        for (text, valid) in [
            ("30s", true),
            ("500ms", true),
            ("1h 30m", true),
            ("1h30m", true),
            ("2160h", true),
            ("0s", false),
            ("30", false),
            ("s", false),
            ("", false),
            ("-1s", false),
            ("soon", false),
        ] {
            assert_eq!(pattern.is_match(text), valid, "{text}");
            assert_eq!(type_error("retry.max", &json!(text)).is_none() && !text.is_empty(), valid, "{text}");
        }
        for (key, schema) in settings().iter().filter(|(_, schema)| inner(schema)["pattern"] == DURATION) {
            assert!(pattern.is_match(schema["default"].as_str().unwrap()), "{key}");
        }
    }
}
