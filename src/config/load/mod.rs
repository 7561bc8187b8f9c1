//! Merges the layers of the configuration and keeps the origin of each value.

use std::{fmt, path::PathBuf};

use toml::{Table, Value};
use url::Url;

use super::{
    Config, otel,
    settings::{CLIENTS, ConfigError, Origin, Settings, TEMPLATES},
    validate,
};
use crate::{
    contract::decode,
    masking,
    upstream::{Network, Proxies, ProxyError},
};

/// The defaults, which are also the reference: they contain every key, and each value defines its key's type.
pub const DEFAULTS: &str = include_str!("../../../config/default.toml");

/// The layers above the built-in defaults.
#[derive(Default)]
pub struct Sources {
    /// `section.key=value` pairs below all other layers.
    pub defaults: Vec<String>,
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// The environment: `ICW_` variables, OpenTelemetry's variables and those of proxies. Others are ignored.
    pub environment: Vec<(String, String)>,
    /// `section.key=value` pairs from flags.
    pub flags: Vec<String>,
}

/// A configuration with the origin of its values.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// All settings after the merge, in order.
    pub settings: Settings,
    proxies: Result<Proxies, ProxyError>,
}

impl Loaded {
    /// Network settings for the APIs.
    ///
    /// # Errors
    /// [`ConfigError`] for an unusable proxy in the environment. Commands without API calls ignore such a proxy.
    pub fn network(&self) -> Result<Network, ConfigError> {
        let proxies = self.proxies.clone().map_err(|error| ConfigError(error.to_string()))?;
        Ok(Network { ca_file: self.config.tls.ca_file.clone(), proxies })
    }
}

/// Merges the layers, parses the result and validates it.
///
/// # Errors
/// [`ConfigError`] for the first problem.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut settings = defaults()?;
    remember_secrets(&sources.environment);
    for default in &sources.defaults {
        set_flag(&mut settings, default, Origin::Default)?;
    }
    otel::apply_endpoint(&mut settings, &sources.environment)?;
    if let Some(path) = &sources.file {
        let problem = |problem: &dyn fmt::Display| ConfigError(format!("file {}: {problem}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| problem(&error))?;
        let table: Table =
            text.parse().map_err(|error: toml::de::Error| problem(&one_line(&text, &error)))?;
        for (key, value) in flatten(table) {
            settings.set(&key, value, Origin::File(path.clone()))?;
        }
    }
    // An empty variable counts as unset, because charts set such variables.
    for (name, value) in sources.environment.iter().filter(|(_, value)| !value.is_empty()) {
        if let Some(key) = environment_key(name, &settings)? {
            set_text(&mut settings, &key, value, Origin::Environment(name.clone()))?;
        }
    }
    for flag in &sources.flags {
        set_flag(&mut settings, flag, Origin::Flag)?;
    }
    otel::apply_disabled(&mut settings, &sources.environment)?;
    let config = parse(&settings)?;
    validate::validate(&config, &settings)?;
    let proxies = Proxies::of(&sources.environment);
    let loaded = Loaded { config, settings, proxies };
    otel::validate_headers(&loaded, &sources.environment)?;
    Ok(loaded)
}

/// Registers the secrets of other variables for masking: proxy passwords and the collector's headers.
fn remember_secrets(environment: &[(String, String)]) {
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    for (name, value) in environment {
        if name.to_ascii_uppercase().ends_with("_PROXY") {
            let value = if value.contains("://") { value.clone() } else { format!("http://{value}") };
            if let Some(password) = Url::parse(&value).ok().as_ref().and_then(Url::password) {
                masking::remember(password);
                masking::remember(&decoded(password));
            }
        }
        if name.starts_with("OTEL_EXPORTER_OTLP_") && name.ends_with("HEADERS") {
            for (_, header) in value.split(',').filter_map(|header| header.split_once('=')) {
                masking::remember(header.trim());
                masking::remember(&decoded(header.trim()));
            }
        }
    }
}

pub(super) fn defaults() -> Result<Settings, ConfigError> {
    let table: Table = DEFAULTS
        .parse()
        .map_err(|error: toml::de::Error| ConfigError(format!("default.toml: {}", error.message())))?;
    Ok(Settings(flatten(table).into_iter().map(|(key, value)| (key, (value, Origin::Default))).collect()))
}

/// Returns `section.key` and value for every entry of a table of tables, `ingress.clients.NAME.KEY` for clients, and
/// `webex_connect.whatsapp_templates.LOCALE` for templates.
fn flatten(table: Table) -> Vec<(String, Value)> {
    let mut flat = Vec::new();
    for (section, value) in table {
        let Value::Table(keys) = value else {
            flat.push((section, value));
            continue;
        };
        for (key, value) in keys {
            match value {
                Value::Table(clients) if format!("{section}.{key}.") == CLIENTS => {
                    let clients = flatten(clients).into_iter();
                    flat.extend(clients.map(|(key, value)| (format!("{CLIENTS}{key}"), value)));
                }
                Value::Table(templates) if format!("{section}.{key}.") == TEMPLATES => {
                    flat.extend(
                        templates.into_iter().map(|(key, value)| (format!("{TEMPLATES}{key}"), value)),
                    );
                }
                value => flat.push((format!("{section}.{key}"), value)),
            }
        }
    }
    flat
}

/// The key that an environment variable sets; `None` for variables without the `ICW_` prefix.
fn environment_key(name: &str, settings: &Settings) -> Result<Option<String>, ConfigError> {
    let Some(rest) = name.strip_prefix("ICW_") else { return Ok(None) };
    if let Some((section, key)) = rest.split_once("__") {
        let key = format!("{section}.{key}").to_ascii_lowercase();
        let client =
            key.strip_prefix("ingress.clients__").map(|rest| format!("{CLIENTS}{}", rest.replace("__", ".")));
        let template = key.strip_prefix("webex_connect.whatsapp_templates__");
        let template = template.map(|locale| format!("{TEMPLATES}{locale}"));
        return Ok(Some(client.or(template).unwrap_or(key)));
    }
    // Kubernetes adds its own variables for a service called icw, which are not settings. A setting with one underscore
    // too few is a mistake and must be reported.
    let meant = settings.0.keys().find(|key| key.replace('.', "_") == rest.to_ascii_lowercase());
    match meant.and_then(|key| key.split_once('.')) {
        Some((section, key)) => {
            let right = format!("ICW_{}__{}", section.to_ascii_uppercase(), key.to_ascii_uppercase());
            Err(ConfigError(format!(
                "environment {name}: unknown variable; did you mean {right} (two underscores)?"
            )))
        }
        None => Ok(None),
    }
}

fn set_flag(settings: &mut Settings, flag: &str, origin: Origin) -> Result<(), ConfigError> {
    let (key, value) =
        flag.split_once('=').ok_or_else(|| ConfigError("--set: expected section.key=value".to_owned()))?;
    set_text(settings, key.trim(), value, origin)
}

/// Sets `key` from text, parsed as the type of the key's default.
pub(super) fn set_text(
    settings: &mut Settings,
    key: &str,
    text: &str,
    origin: Origin,
) -> Result<(), ConfigError> {
    let value = match settings.default_of(key) {
        Some(Value::Integer(_)) => text.trim().parse().map(Value::Integer).ok(),
        Some(Value::Float(_)) => text.trim().parse().map(Value::Float).ok(),
        Some(Value::Boolean(_)) => text.trim().parse().map(Value::Boolean).ok(),
        Some(Value::Array(_)) => Some(list(text)),
        _ => None,
    };
    // A value of the wrong type stays text, and `set` refuses it with the proper error.
    settings.set(key, value.unwrap_or_else(|| Value::String(text.to_owned())), origin)
}

fn list(text: &str) -> Value {
    let parsed = format!("list = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("list"));
    match parsed {
        Some(Value::Array(items)) => Value::Array(items),
        _ => text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| Value::String(item.to_owned()))
            .collect::<Vec<_>>()
            .into(),
    }
}

/// Parses the merged settings as a [`Config`].
fn parse(settings: &Settings) -> Result<Config, ConfigError> {
    let mut sections = serde_json::Map::new();
    for (key, value) in settings.resolved() {
        // `section.key`, or `ingress.clients.NAME.KEY`: a client's name has no dot.
        let (path, key) = key.rsplit_once('.').unwrap_or(("", &key));
        let mut keys = Some(&mut sections);
        for name in path.split('.') {
            let inner = keys.map(|keys| keys.entry(name).or_insert_with(|| serde_json::json!({})));
            keys = inner.and_then(serde_json::Value::as_object_mut);
        }
        if let Some(keys) = keys {
            keys.insert(key.to_owned(), serde_json::to_value(value).unwrap_or_default());
        }
    }
    serde_path_to_error::deserialize(serde_json::Value::Object(sections)).map_err(|error| {
        let path = error.path().to_string();
        let (key, entry) = path.split_once('[').unwrap_or((&path, ""));
        let invalid = decode::explain("", &error.inner().to_string()).to_string();
        let invalid = invalid.strip_prefix("body: ").unwrap_or(&invalid);
        match entry.trim_end_matches(']').parse::<usize>() {
            Ok(entry) => settings.error(key, format!("entry {}: {invalid}", entry + 1)),
            Err(_) => settings.error(key, invalid),
        }
    })
}

/// Line number and message of a TOML error, without the line itself, because it may contain a secret.
fn one_line(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    format!("line {line}: invalid TOML: {}", error.message().lines().next().unwrap_or_default())
}

#[cfg(test)]
mod tests;
