//! Settings that may be empty, and URLs.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Deserializer, de::Error};
use url::Url;

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
