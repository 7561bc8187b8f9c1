//! Value types of settings, with their own rules. Each error states the expected value; the caller adds the setting, origin and value.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, de::Error};
use url::Url;

use crate::contract::ids;

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Bounded<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Bounded<MIN, MAX> {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number as a length.
    #[must_use]
    pub const fn size(self) -> usize {
        self.0 as usize
    }
}

impl<const MIN: u32, const MAX: u32> fmt::Debug for Bounded<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Bounded<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer).ok().and_then(|number| u32::try_from(number).ok());
        match number {
            Some(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            _ => Err(D::Error::custom(format_args!("expected a whole number from {MIN} to {MAX}"))),
        }
    }
}

/// A number from `MIN` to `MAX`, fractions allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factor<const MIN: u32, const MAX: u32>(f64);

impl<const MIN: u32, const MAX: u32> Factor<MIN, MAX> {
    /// The number.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Factor<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match f64::deserialize(deserializer) {
            Ok(number) if (f64::from(MIN)..=f64::from(MAX)).contains(&number) => Ok(Self(number)),
            _ => Err(D::Error::custom(format_args!("expected a number from {MIN} to {MAX}"))),
        }
    }
}

/// A duration, more than zero and at most a year.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(Duration);

impl Period {
    /// The duration.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl fmt::Debug for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);
        String::deserialize(deserializer)
            .ok()
            .and_then(|text| text.parse::<SignedDuration>().ok())
            .and_then(|span| Duration::try_from(span).ok())
            .filter(|span| !span.is_zero() && *span <= YEAR)
            .map(Self)
            .ok_or_else(|| D::Error::custom("expected a duration such as \"500ms\", \"30s\", \"5m\" or \"2h\", above zero and at most a year"))
    }
}

/// Reads a [`Period`] as a duration.
pub(crate) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    Period::deserialize(deserializer).map(Period::get)
}

/// Reads a whole number from `MIN` to `MAX`.
pub(crate) fn whole<'de, D: Deserializer<'de>, const MIN: u32, const MAX: u32>(
    deserializer: D,
) -> Result<u32, D::Error> {
    Bounded::<MIN, MAX>::deserialize(deserializer).map(Bounded::get)
}

/// Reads a number from `MIN` to `MAX`, fractions allowed.
pub(crate) fn factor<'de, D: Deserializer<'de>, const MIN: u32, const MAX: u32>(
    deserializer: D,
) -> Result<f64, D::Error> {
    Factor::<MIN, MAX>::deserialize(deserializer).map(Factor::get)
}

/// The delays of the delay queues: ascending, in whole milliseconds, at least one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<Period>")]
pub struct Delays(Vec<Duration>);

impl Delays {
    /// The delays, shortest first.
    #[must_use]
    pub fn as_slice(&self) -> &[Duration] {
        &self.0
    }
}

impl TryFrom<Vec<Period>> for Delays {
    type Error = &'static str;

    fn try_from(periods: Vec<Period>) -> Result<Self, Self::Error> {
        periods.into_iter().map(Period::get).collect::<Vec<_>>().try_into()
    }
}

impl TryFrom<Vec<Duration>> for Delays {
    type Error = &'static str;

    fn try_from(delays: Vec<Duration>) -> Result<Self, Self::Error> {
        let valid = (1..=20).contains(&delays.len())
            && delays.windows(2).all(|pair| pair[0] < pair[1])
            && delays.iter().all(|delay| delay.subsec_nanos() % 1_000_000 == 0);
        if valid {
            Ok(Self(delays))
        } else {
            Err("expected 1 to 20 ascending durations in whole milliseconds, such as [\"1s\", \"30s\"]")
        }
    }
}

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

/// Reads an empty string as "not given".
pub(crate) fn empty_is_none<'de, D: Deserializer<'de>, T: FromText>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() { Ok(None) } else { T::from_text(text).map(Some).map_err(D::Error::custom) }
}

/// Reads a listen address; an empty string and `off` mean none.
pub(crate) fn address_or_off<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "" | "off" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            D::Error::custom("expected an IP address and a port, such as \"127.0.0.1:9464\", or \"off\"")
        }),
    }
}

/// Reads a zero as "not given".
pub(crate) fn zero_is_none<'de, D: Deserializer<'de>, const MIN: u32, const MAX: u32>(
    deserializer: D,
) -> Result<Option<Bounded<MIN, MAX>>, D::Error> {
    let number = i64::deserialize(deserializer)?;
    if number == 0 {
        return Ok(None);
    }
    let number = u32::try_from(number).ok().filter(|number| (MIN..=MAX).contains(number)).map(Bounded);
    number
        .map(Some)
        .ok_or_else(|| D::Error::custom(format_args!("expected 0 or a whole number from {MIN} to {MAX}")))
}

/// Reads a URL that has a host.
pub(crate) fn http_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
    let url =
        String::deserialize(deserializer).ok().and_then(|text| Url::parse(&text).ok()).filter(Url::has_host);
    url.ok_or_else(|| D::Error::custom("expected a URL such as https://host/"))
}

/// Type of an optional setting, read from text.
pub(crate) trait FromText: Sized {
    fn from_text(text: String) -> Result<Self, String>;
}

impl FromText for PathBuf {
    fn from_text(text: String) -> Result<Self, String> {
        Ok(text.into())
    }
}

impl FromText for Url {
    fn from_text(text: String) -> Result<Self, String> {
        let url = Self::parse(&text).ok().filter(Self::has_host);
        url.ok_or_else(|| "expected a URL such as https://host/".to_owned())
    }
}

/// Implements [`FromText`] through serde for enums.
macro_rules! from_text_by_name {
    ($($kind:ty),+) => {$(
        impl $crate::values::FromText for $kind {
            fn from_text(text: String) -> Result<Self, String> {
                use serde::{Deserialize, de::{IntoDeserializer, value::Error}};
                Self::deserialize(IntoDeserializer::<Error>::into_deserializer(text)).map_err(|error| error.to_string())
            }
        }
    )+};
}

pub(crate) use from_text_by_name;
