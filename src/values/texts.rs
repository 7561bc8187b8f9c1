//! Texts of a given form.

use std::fmt;

use serde::Deserialize;
use url::Url;

use crate::contract::ids;

/// The prefix of the names of exchanges and queues.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Prefix(String);

impl Prefix {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for Prefix {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        // AMQP names have at most 255 bytes, and each name adds a queue's name and a delay to the prefix.
        let valid = (1..=200).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
            && !text.starts_with("amq.");
        if valid {
            Ok(Self(text))
        } else {
            Err("expected 1 to 200 letters, digits, -, _, . and :, not beginning with amq.")
        }
    }
}

/// An accepted start of short links.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct BaseUrl(String);

impl BaseUrl {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for BaseUrl {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let valid = Url::parse(&text).is_ok_and(|url| {
            url.scheme() == "https" || (url.scheme() == "http" && crate::endpoint::url::is_loopback(&url))
        }) && text.ends_with('/')
            && text.bytes().all(|b| b.is_ascii_graphic() && !b"()<>[]\"\\`?#@".contains(&b));
        if valid {
            Ok(Self(text))
        } else {
            Err("expected https:// URLs that end with a slash (http:// only on loopback)")
        }
    }
}

/// A string with at least one visible character.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct NonEmpty(String);

impl NonEmpty {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NonEmpty {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.trim().is_empty() { Err("expected a non-empty string") } else { Ok(Self(text)) }
    }
}

/// The prefix of every subject: at most 64 letters, digits, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SubjectPrefix(String);

impl SubjectPrefix {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SubjectPrefix {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.len() <= 64 && ids::is_plain(&text) {
            Ok(Self(text))
        } else {
            Err("expected at most 64 letters, digits, - and _")
        }
    }
}
