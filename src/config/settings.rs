//! The merged settings: the value and the origin of each key, and the values that may be shown.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
};

use toml::Value;

use super::load::defaults;

/// Keys with secret values, which are never shown. [`is_secret`] adds those of the ingress's clients.
pub const SECRETS: [&str; 8] = [
    "amqp.url",
    "instant_connect.token",
    "hosts.token",
    "webex_connect.key",
    "webex_connect.jwt_secret",
    "receipts.secret",
    "receipts.key",
    "ledger.url",
];

/// Beginning of the keys of the ingress's clients, `ingress.clients.NAME.KEY`.
pub(super) const CLIENTS: &str = "ingress.clients.";
/// Beginning of the keys of templates, `webex_connect.whatsapp_templates.LOCALE`.
pub(super) const TEMPLATES: &str = "webex_connect.whatsapp_templates.";
/// The name instead of a client's, or of a locale, for what all of them share.
const EVERY: &str = "*";

/// True if the value of `key` is never shown. A digest is hidden because a token may be given in its place.
#[must_use]
pub fn is_secret(key: &str) -> bool {
    let ends = [".token", ".token_sha256", ".signing_secret"];
    SECRETS.contains(&key) || (key.starts_with(CLIENTS) && ends.iter().any(|end| key.ends_with(end)))
}

/// The client and the key of a setting of a client.
fn client_key(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(CLIENTS)?.split_once('.')
}

/// Maximum length of a client's name, in bytes.
pub(super) const CLIENT_NAME_MAX: usize = 40;

/// Maximum length of the locale of a template, in bytes.
const LOCALE_BYTES_MAX: usize = 64;

/// True if `name` can be the name of a client. It becomes part of event ids, log lines and environment variables, in which two `_`
/// separate a section from its key.
fn is_client_name(name: &str) -> bool {
    let characters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    let words = || name.split('_').all(|word| !word.is_empty());
    name.len() <= CLIENT_NAME_MAX && name.bytes().all(characters) && words()
}

/// `key` with the locale of a template in lower case and with `-`, so that each locale has one key. The environment has `_` for `-`.
fn canonical(key: &str) -> Cow<'_, str> {
    match key.strip_prefix(TEMPLATES) {
        Some(locale) => format!("{TEMPLATES}{}", locale.to_ascii_lowercase().replace('_', "-")).into(),
        None => key.into(),
    }
}

/// True if `text` can be a locale: words of letters and digits.
fn is_locale(text: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric());
    text.len() <= LOCALE_BYTES_MAX && text.split('-').all(is_word)
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
pub struct ConfigError(pub(super) String);

impl ConfigError {
    /// Creates an error without a single key.
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self(problem.into())
    }
}

/// The merged values with their origins. `Debug` shows no secret.
#[derive(Default)]
pub struct Settings(pub(super) BTreeMap<String, (Value, Origin)>);

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

    pub(super) fn set(&mut self, key: &str, value: Value, origin: Origin) -> Result<(), ConfigError> {
        let key = &*canonical(key);
        let Some(default) = self.default_of(key) else { return Err(self.unknown(key, &origin)) };
        if let Some((name, _)) = client_key(key)
            && name != EVERY
            && !is_client_name(name)
        {
            let expected =
                "expected a client name of 1 to 40 lower-case letters, digits, - and single _ between them";
            return Err(ConfigError(format!("{origin}: {CLIENTS}…: {expected}")));
        }
        if let Some(locale) = key.strip_prefix(TEMPLATES)
            && !is_locale(locale)
        {
            return Err(ConfigError(format!(
                "{origin}: {TEMPLATES}…: expected a locale such as es or pt-BR"
            )));
        }
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

    /// The value whose type `key` must have, if the key is known. A client's key has its type from the section of every client, and
    /// a template's from that of every locale.
    pub(super) fn default_of(&self, key: &str) -> Option<&Value> {
        let of_client = client_key(key).map(|(_, own)| format!("{CLIENTS}{EVERY}.{own}"));
        let every = of_client.or_else(|| key.starts_with(TEMPLATES).then(|| format!("{TEMPLATES}{EVERY}")));
        self.0.get(every.as_deref().unwrap_or(key)).map(|(value, _)| value)
    }

    /// Key and value of every setting in the form of [`super::Config`]: each client has all keys of a client.
    pub(super) fn resolved(&self) -> BTreeMap<String, &Value> {
        let every = format!("{CLIENTS}{EVERY}.");
        let template = format!("{TEMPLATES}{EVERY}");
        let own = self.0.iter().filter(|(key, _)| !key.starts_with(&every) && **key != template);
        let mut resolved: BTreeMap<String, &Value> =
            own.map(|(key, (value, _))| (key.clone(), value)).collect();
        let names: BTreeSet<&str> =
            self.0.keys().filter_map(|key| client_key(key)).map(|(name, _)| name).collect();
        for name in names.into_iter().filter(|name| *name != EVERY) {
            for (key, (value, _)) in
                self.0.range(every.clone()..).take_while(|(key, _)| key.starts_with(&every))
            {
                let key = format!("{CLIENTS}{name}.{}", &key[every.len()..]);
                resolved.entry(key).or_insert(value);
            }
        }
        resolved
    }

    fn unknown(&self, key: &str, origin: &Origin) -> ConfigError {
        // A client's name may be a token in the wrong place.
        let every = client_key(key).map(|(_, own)| format!("{CLIENTS}{EVERY}.{own}"));
        let key = every.as_deref().unwrap_or(key);
        let section = match key.rsplit_once('.') {
            Some((section, _)) if every.is_some() => section,
            _ => key.split_once('.').map_or(key, |(section, _)| section),
        };
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

/// The keys whose entries are addresses of devices or persons.
const ADDRESSES: [&str; 2] = ["devices.allowed", "hosts.allowed"];

/// The key whose entries are beginnings of numbers.
const PREFIXES: &str = "send.allowed_prefixes";

/// Digits of the longest prefix that is shown, because a longer one may be a person's number.
const PREFIX_DIGITS_MAX: usize = 6;

/// True if an entry of `value` may be a person's number.
fn has_number(value: &Value) -> bool {
    let digits = |text: &str| text.bytes().filter(u8::is_ascii_digit).count();
    match value {
        Value::Array(items) => items.iter().any(has_number),
        Value::String(text) => digits(text) > PREFIX_DIGITS_MAX,
        Value::Integer(_) => true,
        _ => false,
    }
}

/// `value` as errors may show it: of addresses, only their number. A secret is often pasted into the wrong variable. Therefore values of path and URL settings
/// are also hidden if they are no path or URL, or contain a user, a password or a query.
fn shown(key: &str, value: &Value) -> String {
    match value {
        Value::Array(items) if ADDRESSES.contains(&key) && !items.is_empty() => {
            return format!("[{} hidden]", items.len());
        }
        Value::String(_) | Value::Table(_) if ADDRESSES.contains(&key) => return "[hidden]".to_owned(),
        value if key == PREFIXES && has_number(value) => return "[hidden]".to_owned(),
        _ => {}
    }
    let hidden = match value {
        Value::String(text) if text.is_empty() => false,
        Value::String(text) => {
            is_secret(key) || (key.ends_with("_file") && !is_path(text)) || is_secret_url(key, text)
        }
        Value::Array(items) => items.iter().filter_map(Value::as_str).any(|text| is_secret_url(key, text)),
        _ => is_secret(key),
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
