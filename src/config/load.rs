//! Merges the layers of the configuration and keeps the origin of each value.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use toml::{Table, Value};
use url::Url;

use super::{Config, otel, validate};
use crate::{
    contract::decode,
    masking,
    upstream::{Network, Proxies, ProxyError},
};

/// The defaults, which are also the reference: they contain every key, and each value defines its key's type.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Keys with secret values, which are never shown.
pub const SECRETS: [&str; 4] = ["amqp.url", "instant_connect.token", "hosts.token", "ledger.url"];

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

/// Origin of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `config/default.toml`.
    Default,
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// `--set`.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag => f.write_str("--set"),
        }
    }
}

/// A configuration error: origin, key, value and the expected value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    /// Creates an error without a single key.
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self(problem.into())
    }
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

/// The merged values with their origins. `Debug` shows no secret.
#[derive(Default)]
pub struct Settings(BTreeMap<String, (Value, Origin)>);

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.rows().map(|(key, value, _)| (key, value))).finish()
    }
}

impl Settings {
    /// Key, value as TOML (secrets hidden) and origin of every setting.
    pub fn rows(&self) -> impl Iterator<Item = (&str, String, &Origin)> {
        self.0.iter().map(|(key, (value, origin))| (key.as_str(), shown(key, value), origin))
    }

    /// The rows of [`rows`](Self::rows) whose value differs from the built-in default.
    pub fn changed_rows(&self) -> impl Iterator<Item = (&str, String, &Origin)> {
        let defaults = defaults().unwrap_or_default();
        self.rows().filter(move |(key, ..)| {
            let value = |settings: &Self| settings.0.get(*key).map(|(value, _)| value.clone());
            value(self) != value(&defaults)
        })
    }

    /// Value of `key` as TOML, hidden if it is a secret; empty for an unknown key.
    #[must_use]
    pub fn shown(&self, key: &str) -> String {
        self.0.get(key).map(|(value, _)| shown(key, value)).unwrap_or_default()
    }

    /// Creates an error about `key`.
    pub(crate) fn error(&self, key: &str, problem: impl fmt::Display) -> ConfigError {
        match self.0.get(key) {
            Some((value, origin)) => {
                ConfigError(format!("{origin}: {key} = {}: {problem}", shown(key, value)))
            }
            None => ConfigError(format!("{key}: {problem}")),
        }
    }

    /// Origin of `key`'s value.
    #[must_use]
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.0.get(key).map(|(_, origin)| origin)
    }

    fn set(&mut self, key: &str, value: Value, origin: Origin) -> Result<(), ConfigError> {
        let Some((default, _)) = self.0.get(key) else { return Err(self.unknown(key, &origin)) };
        let value = match (default, value) {
            (Value::Float(_), Value::Integer(number)) => {
                Value::Float(f64::from(i32::try_from(number).unwrap_or(i32::MAX)))
            }
            (_, value) => value,
        };
        if !default.same_type(&value) {
            let problem = format!("expected {}", kind(default));
            return Err(ConfigError(format!("{origin}: {key} = {}: {problem}", shown(key, &value))));
        }
        self.0.insert(key.to_owned(), (value, origin));
        Ok(())
    }

    fn unknown(&self, key: &str, origin: &Origin) -> ConfigError {
        let (section, _) = key.split_once('.').unwrap_or((key, ""));
        let in_section: Vec<_> =
            self.0.keys().filter_map(|known| known.strip_prefix(section)?.strip_prefix('.')).collect();
        let known = if in_section.is_empty() {
            let mut sections: Vec<_> = self.0.keys().filter_map(|known| known.split('.').next()).collect();
            sections.dedup();
            format!("known sections: {}", sections.join(", "))
        } else {
            format!("known in {section}: {}", in_section.join(", "))
        };
        let near = self
            .0
            .keys()
            .map(|known| (strsim::jaro_winkler(known, key), known))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = match near {
            Some((score, near)) if score > 0.85 => format!(" (did you mean {near}?)"),
            _ => String::new(),
        };
        ConfigError(format!("{origin}: {key}: unknown key{hint}; {known}"))
    }
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

fn defaults() -> Result<Settings, ConfigError> {
    let table: Table = DEFAULTS
        .parse()
        .map_err(|error: toml::de::Error| ConfigError(format!("default.toml: {}", error.message())))?;
    Ok(Settings(flatten(table).into_iter().map(|(key, value)| (key, (value, Origin::Default))).collect()))
}

/// Returns `section.key` and value for every entry of a table of tables.
fn flatten(table: Table) -> Vec<(String, Value)> {
    let mut flat = Vec::new();
    for (section, value) in table {
        match value {
            Value::Table(keys) => {
                flat.extend(keys.into_iter().map(|(key, value)| (format!("{section}.{key}"), value)));
            }
            value => flat.push((section, value)),
        }
    }
    flat
}

/// The key that an environment variable sets; `None` for variables without the `ICW_` prefix.
fn environment_key(name: &str, settings: &Settings) -> Result<Option<String>, ConfigError> {
    let Some(rest) = name.strip_prefix("ICW_") else { return Ok(None) };
    if let Some((section, key)) = rest.split_once("__") {
        return Ok(Some(format!("{}.{}", section.to_ascii_lowercase(), key.to_ascii_lowercase())));
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
    let value = match settings.0.get(key).map(|(default, _)| default) {
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
    for (key, (value, _)) in &settings.0 {
        let (section, key) = key.split_once('.').unwrap_or(("", key));
        let value = serde_json::to_value(value).unwrap_or_default();
        if let Some(keys) = sections.entry(section).or_insert_with(|| serde_json::json!({})).as_object_mut() {
            keys.insert(key.to_owned(), value);
        }
    }
    serde_path_to_error::deserialize(serde_json::Value::Object(sections)).map_err(|error| {
        let path = error.path().to_string();
        let key = path.split('[').next().unwrap_or_default();
        let invalid = decode::explain("", &error.inner().to_string()).to_string();
        settings.error(key, invalid.strip_prefix("body: ").unwrap_or(&invalid))
    })
}

/// `value` as errors may show it. A secret is often pasted into the wrong variable. Therefore values of path and URL settings
/// are also hidden if they are no path or URL, or contain a user, a password or a query.
fn shown(key: &str, value: &Value) -> String {
    let hidden = match value {
        Value::String(text) if text.is_empty() => false,
        Value::String(text) => {
            SECRETS.contains(&key) || (key.ends_with("_file") && !is_path(text)) || is_secret_url(key, text)
        }
        Value::Array(items) => items.iter().filter_map(Value::as_str).any(|text| is_secret_url(key, text)),
        _ => SECRETS.contains(&key),
    };
    if hidden { "[hidden]".to_owned() } else { value.to_string() }
}

/// True if `text` looks like a path.
pub(super) fn is_path(text: &str) -> bool {
    text.contains('/') && !text.contains("://")
}

/// True if `text`, as a value of `key`, is a URL that may contain a secret. Also true if it should be a URL and is none,
/// because it may be a misplaced token.
fn is_secret_url(key: &str, text: &str) -> bool {
    let should_be = ["url", "urls", "endpoint"].iter().any(|end| key.ends_with(end));
    has_userinfo(text) || (should_be && !text.contains("://"))
}

/// True if `text` is a URL with a user or a query, because both may contain keys.
fn has_userinfo(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else { return false };
    let host = rest.split(['/', '?', '#']).next();
    rest.contains('?') || host.is_some_and(|host| host.contains('@'))
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Array(_) => "a list of strings",
        Value::Table(_) => "a section",
        Value::String(_) | Value::Datetime(_) => "a string",
    }
}

/// Line number and message of a TOML error, without the line itself, because it may contain a secret.
fn one_line(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    format!("line {line}: invalid TOML: {}", error.message().lines().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(environment: &[(&str, &str)], flags: &[&str]) -> Result<Loaded, String> {
        let sources = Sources {
            environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            flags: flags.iter().map(|f| (*f).to_owned()).collect(),
            ..Sources::default()
        };
        load(&sources).map_err(|error| error.to_string())
    }

    fn file(text: &str) -> Result<Loaded, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let error =
            |error: ConfigError| error.to_string().replace(&file.path().display().to_string(), "FILE");
        load(&Sources { file: Some(file.path().to_owned()), ..Sources::default() }).map_err(error)
    }

    #[test]
    fn defaults_are_a_valid_configuration() {
        let loaded = with(&[], &[]).unwrap();
        assert_eq!(loaded.config.amqp.prefetch.get(), 32);
        assert!(loaded.settings.rows().all(|(_, _, origin)| *origin == Origin::Default));
    }

    #[test]
    fn later_layer_wins() {
        let loaded = with(
            &[("ICW_AMQP__PREFETCH", "7"), ("ICW_TOPOLOGY__PREFIX", "a"), ("PATH", "x")],
            &["topology.prefix=b"],
        )
        .unwrap();
        assert_eq!(loaded.config.amqp.prefetch.get(), 7);
        assert_eq!(loaded.config.topology.prefix.as_str(), "b");
        assert_eq!(loaded.settings.origin("topology.prefix"), Some(&Origin::Flag));
    }

    #[test]
    fn changed_rows_are_those_with_another_value_than_the_default() {
        let environment =
            [("ICW_AMQP__PREFETCH", "32"), ("ICW_INSTANT_CONNECT__TOKEN", "s3cret"), ("PATH", "x")];
        let loaded = with(&environment, &["topology.prefix=b"]).unwrap();
        let changed: Vec<_> = loaded.settings.changed_rows().map(|(key, value, _)| (key, value)).collect();
        let expected = [("instant_connect.token", "[hidden]"), ("topology.prefix", "\"b\"")];
        assert_eq!(changed, expected.map(|(key, value)| (key, value.to_owned())));
    }

    #[test]
    fn environment_values_have_the_type_of_the_default() {
        let loaded = with(
            &[
                ("ICW_INSTANT_CONNECT__TOKEN", "12345"),
                ("ICW_DEVICES__ALLOWED", "a@b.example, *@c.example"),
                ("ICW_RETRY__MULTIPLIER", "3"),
            ],
            &["instant_connect.allowed_base_urls=[\"https://x.example/\"]"],
        )
        .unwrap();
        assert_eq!(loaded.config.instant_connect.allowed_base_urls.len(), 1);
        assert!((loaded.config.retry.multiplier - 3.0).abs() < f64::EPSILON);
    }

    #[test]
    fn error_names_origin_key_value_and_expectation() {
        for (environment, expected) in [
            (
                ("ICW_AMQP__PREFETCH", "many"),
                "environment ICW_AMQP__PREFETCH: amqp.prefetch = \"many\": expected a whole number",
            ),
            (
                ("ICW_AMQP__PREFETCH", "0"),
                "environment ICW_AMQP__PREFETCH: amqp.prefetch = 0: expected a whole number from 1 to 65535",
            ),
            (
                ("ICW_RETRY__MAX", "soon"),
                "environment ICW_RETRY__MAX: retry.max = \"soon\": expected a duration such as \"500ms\", \"30s\", \"5m\" or \"2h\", above zero and at most a year",
            ),
            (
                ("ICW_TOPOLOGY__DECLARE", "maybe"),
                "environment ICW_TOPOLOGY__DECLARE: topology.declare = \"maybe\": expected one of create, check, off",
            ),
            (
                ("ICW_TOPOLOGY__PREFIX", "a b"),
                "environment ICW_TOPOLOGY__PREFIX: topology.prefix = \"a b\": expected 1 to 200 letters, digits, -, _, . and :, not beginning with amq.",
            ),
            (
                ("ICW_INSTANT_CONNECT__ENC", "ROT13"),
                "environment ICW_INSTANT_CONNECT__ENC: instant_connect.enc = \"ROT13\": expected one of A128CBC-HS256, A192CBC-HS384, A256CBC-HS512, A128GCM, A192GCM, A256GCM",
            ),
            (
                ("ICW_INSTANT_CONNECT__SALT_LENGTH", "7"),
                "environment ICW_INSTANT_CONNECT__SALT_LENGTH: instant_connect.salt_length = 7: expected 0 or a whole number from 8 to 128",
            ),
            (
                ("ICW_INSTANT_CONNECT__URL", "ftp://nowhere"),
                "environment ICW_INSTANT_CONNECT__URL: instant_connect.url = \"ftp://nowhere\": expected a URL such as https://host/",
            ),
            (
                ("ICW_DEVICES__ALLOWED", "*"),
                "environment ICW_DEVICES__ALLOWED: devices.allowed = [\"*\"]: expected device addresses such as room-12@example.rooms.webex.com, or with a wildcard such as *@example.rooms.webex.com",
            ),
            (
                ("ICW_AMQP_URL", "x"),
                "environment ICW_AMQP_URL: unknown variable; did you mean ICW_AMQP__URL (two underscores)?",
            ),
            (
                ("ICW_AMQP__URLL", "amqp://u:secret@h"),
                "environment ICW_AMQP__URLL: amqp.urll: unknown key (did you mean amqp.url?); known in amqp: allow_insecure, auth, bytes_in_progress, client_cert_file, client_key_file, concurrency, connect_timeout, deliveries_max, delivery_timeout, prefetch, reconnect_max, timeout, url, url_file, watch_interval",
            ),
        ] {
            assert_eq!(with(&[environment], &[]).unwrap_err(), expected);
        }
    }

    #[test]
    fn error_in_a_file_names_the_file() {
        assert_eq!(
            file("[amqp]\nprefetch = \"x\"\n").unwrap_err(),
            "file FILE: amqp.prefetch = \"x\": expected a whole number"
        );
        assert!(!file("[amqp]\nurl = \"amqp://u:secret@h/").unwrap_err().contains("secret"));
        assert!(file("[amqp]\n\nx\n").unwrap_err().starts_with("file FILE: line 3: invalid TOML"));
        assert!(file("[amqq]\nurl = 1\n").unwrap_err().contains("unknown key"));
        assert!(
            load(&Sources { file: Some("/nonexistent".into()), ..Sources::default() })
                .unwrap_err()
                .to_string()
                .contains("No such file")
        );
    }

    #[test]
    fn secrets_of_proxy_and_otlp_variables_are_masked() {
        let environment = [
            ("HTTPS_PROXY", "http://u:pr%2Fxy-s3cret@proxy:3128"),
            ("https_proxy", "u:small-s3cret@proxy:3128"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=one, authorization=Bearer%20collector-s3cret"),
        ];
        with(&environment, &[]).unwrap();
        let text = "pr/xy-s3cret pr%2Fxy-s3cret small-s3cret Bearer collector-s3cret";
        assert_eq!(masking::masked(text), "[hidden] [hidden] [hidden] [hidden]");
    }

    #[test]
    fn secret_values_are_not_shown() {
        let secrets = [
            ("ICW_AMQP__URL", "gopher://u:s3cret@h"),
            ("ICW_AMQP__URL", "amqp://u:s3cret@localhost?heartbeat=abc"),
            ("ICW_AMQP__URL_FILE", "amqp://u:s3cret@h"),
            ("ICW_INSTANT_CONNECT__TOKEN", "s3 cret"),
            ("ICW_INSTANT_CONNECT__URL", "https://u:s3cret@h"),
            ("ICW_INSTANT_CONNECT__ALLOWED_BASE_URLS", "https://u:s3cret@h/"),
            ("ICW_INSTANT_CONNECT__URL", "s3cret"),
            ("ICW_HOSTS__WEBEX_URL", "eyJ.s3cret.x"),
            ("ICW_INSTANT_CONNECT__ALLOWED_BASE_URLS", "https://h/,s3cret"),
            ("ICW_TELEMETRY__OTLP_ENDPOINT", "Bearer s3cret"),
        ];
        for secret in secrets {
            assert!(!with(&[secret], &[]).unwrap_err().contains("cret"), "{secret:?}");
        }
        let loaded =
            with(&[("ICW_AMQP__URL", "amqp://u:s3cret@localhost"), ("ICW_HOSTS__TOKEN", "s3cret")], &[])
                .unwrap();
        assert!(loaded.settings.rows().all(|(_, value, _)| !value.contains("s3cret")));
        assert!(!format!("{loaded:?}").contains("s3cret"));
    }
}
