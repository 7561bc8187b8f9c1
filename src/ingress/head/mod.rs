//! The head of a request: its headers, checked before the body is read.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str,
};

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{config::AddressBlock, problem::HttpProblem};
use crate::contract::{
    BODY_BYTES_MAX,
    header::{TRACEPARENT, TRACESTATE},
    http::{MEDIA_TYPES, ProblemKind},
    private::Private,
};

/// Longest `Idempotency-Key`, in bytes.
const KEY_BYTES_MAX: usize = 255;
/// Longest name of a CloudEvents attribute, in bytes.
const ATTRIBUTE_BYTES_MAX: usize = 40;
/// Attributes that every CloudEvent has.
const REQUIRED_ATTRIBUTES: [&str; 4] = ["specversion", "id", "source", "type"];
/// Beginning of the names of `CloudEvent` attributes in a message's headers.
const ATTRIBUTES: &str = "cloudEvents:";

/// The head of a request to start a session.
#[derive(Debug)]
pub(super) struct StartHead {
    /// The media type without parameters, one of [`MEDIA_TYPES`].
    pub(super) media_type: &'static str,
    /// The `Idempotency-Key` without quotation marks.
    pub(super) key: Option<Private<String>>,
    /// Headers of the message: CloudEvents attributes, and the trace context.
    pub(super) headers: BTreeMap<String, String>,
}

impl StartHead {
    /// Reads the headers.
    ///
    /// # Errors
    /// [`HttpProblem`] for the first wrong one.
    pub(super) fn read(headers: &HeaderMap, requires_key: bool) -> Result<Self, HttpProblem> {
        check_framing(headers, BODY_BYTES_MAX)?;
        let media_type = media_type(headers)?;
        check_encoding(headers)?;
        let key = idempotency_key(headers)?;
        if key.is_none() && requires_key {
            return Err(malformed("missing header Idempotency-Key, which this ingress requires"));
        }
        let mut kept = if media_type == MEDIA_TYPES[0] { attributes(headers)? } else { BTreeMap::new() };
        for name in [TRACEPARENT, TRACESTATE] {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            kept.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        }
        Ok(Self { media_type, key, headers: kept })
    }

    /// Names a signed request by its `webhook-id`. The signature covers neither an `Idempotency-Key` nor the attributes of a `CloudEvent` in
    /// headers, so whoever sees a signed request could send it again as another one.
    ///
    /// # Errors
    /// The request has another key, or such attributes.
    pub(super) fn named_by(self, id: &Private<String>) -> Result<Self, HttpProblem> {
        if self.key.as_ref().is_some_and(|key| key != id) {
            return Err(malformed(
                "expected no Idempotency-Key, or the same as webhook-id, because it is not signed",
            ));
        }
        if self.headers.keys().any(|name| name.starts_with(ATTRIBUTES)) {
            return Err(malformed(
                "expected no ce- headers, because they are not signed; send the CloudEvent as application/cloudevents+json",
            ));
        }
        Ok(Self { key: Some(id.clone()), ..self })
    }
}

fn malformed(detail: &'static str) -> HttpProblem {
    HttpProblem::new(ProblemKind::Malformed, detail)
}

/// A body with two lengths is read in different ways by different programs.
pub(super) fn check_framing(headers: &HeaderMap, bytes_max: usize) -> Result<(), HttpProblem> {
    let lengths = headers.get_all(header::CONTENT_LENGTH).iter().count();
    let encodings = headers.get_all(header::TRANSFER_ENCODING).iter().count();
    if lengths + encodings > 1 {
        return Err(malformed("expected one Content-Length or one Transfer-Encoding"));
    }
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large(bytes_max));
    }
    Ok(())
}

/// The body has more than `bytes_max` bytes.
pub(super) fn too_large(bytes_max: usize) -> HttpProblem {
    HttpProblem::new(ProblemKind::TooLarge, format!("expected a body of at most {bytes_max} bytes"))
}

/// The only value of a header. An error: it has several.
pub(super) fn single(headers: &HeaderMap, name: HeaderName) -> Result<Option<&HeaderValue>, ()> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() { Err(()) } else { Ok(first) }
}

fn media_type(headers: &HeaderMap) -> Result<&'static str, HttpProblem> {
    let value = single(headers, header::CONTENT_TYPE).map_err(|()| malformed("expected one Content-Type"))?;
    let refused = |detail: &'static str| HttpProblem::new(ProblemKind::MediaType, detail);
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut parts = text.split(';').map(str::trim);
    let given = parts.next().unwrap_or_default();
    let Some(known) = MEDIA_TYPES.iter().find(|known| known.eq_ignore_ascii_case(given)) else {
        return Err(refused("expected Content-Type application/json or application/cloudevents+json"));
    };
    for parameter in parts {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let is_utf8 =
            ["utf-8", "utf8"].iter().any(|name| value.trim().trim_matches('"').eq_ignore_ascii_case(name));
        if name.trim().eq_ignore_ascii_case("charset") && !is_utf8 {
            return Err(refused("expected the charset utf-8"));
        }
    }
    Ok(known)
}

/// Compressed bodies are refused, because a small one may be large once it is decompressed.
fn check_encoding(headers: &HeaderMap) -> Result<(), HttpProblem> {
    let is_identity = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    if headers.get_all(header::CONTENT_ENCODING).iter().all(is_identity) {
        return Ok(());
    }
    Err(HttpProblem::new(
        ProblemKind::MediaType,
        "expected no Content-Encoding; compressed bodies are not supported",
    ))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<Private<String>>, HttpProblem> {
    let expected =
        "expected one Idempotency-Key of 1 to 255 visible ASCII characters, with or without quotation marks";
    let value =
        single(headers, HeaderName::from_static("idempotency-key")).map_err(|()| malformed(expected))?;
    let Some(value) = value else { return Ok(None) };
    let key = value.to_str().ok().and_then(|text| unquoted(text.trim()));
    key.map(|key| Some(Private::new(key))).ok_or_else(|| malformed(expected))
}

/// The key in a header: bare, or a string of RFC 9651.
fn unquoted(text: &str) -> Option<String> {
    let key = match text.strip_prefix('"') {
        None => text.to_owned(),
        Some(rest) => {
            let mut key = String::new();
            let mut characters = rest.strip_suffix('"')?.chars();
            while let Some(character) = characters.next() {
                match character {
                    '\\' => key.push(characters.next().filter(|next| ['"', '\\'].contains(next))?),
                    '"' => return None,
                    other => key.push(other),
                }
            }
            key
        }
    };
    is_key(&key).then_some(key)
}

/// True if `text` can be a key.
pub(super) fn is_key(text: &str) -> bool {
    (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// The attributes of a CloudEvent in binary mode, as AMQP carries them; none if the request is no CloudEvent.
fn attributes(headers: &HeaderMap) -> Result<BTreeMap<String, String>, HttpProblem> {
    let mut found = BTreeMap::new();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix("ce-") else { continue };
        let is_name = (1..=ATTRIBUTE_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !is_name {
            return Err(malformed("expected names of ce- headers to be letters and digits only, at most 40"));
        }
        let value = attribute(value).ok_or_else(|| {
            malformed("expected values of ce- headers to be percent-encoded UTF-8 without control characters")
        })?;
        if found.insert(format!("{ATTRIBUTES}{name}"), value).is_some() {
            return Err(malformed("expected each ce- header once"));
        }
    }
    if found.is_empty() {
        return Ok(found);
    }
    for name in REQUIRED_ATTRIBUTES {
        if found.get(&format!("{ATTRIBUTES}{name}")).is_none_or(String::is_empty) {
            return Err(malformed("expected ce-specversion, ce-id, ce-source and ce-type, none empty"));
        }
    }
    if found[&format!("{ATTRIBUTES}specversion")] != "1.0" {
        return Err(malformed("expected ce-specversion 1.0"));
    }
    Ok(found)
}

fn attribute(value: &HeaderValue) -> Option<String> {
    let decoded = percent_encoding::percent_decode(value.as_bytes()).decode_utf8().ok()?;
    (!decoded.chars().any(char::is_control)).then(|| decoded.into_owned())
}

/// The address of the client: of the right-most hop that is not a trusted proxy.
pub(super) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[AddressBlock]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|block| block.contains(address));
    let forwarded = headers.get_all(HeaderName::from_static("x-forwarded-for")).iter();
    // Each hop is decoded by itself: the client can write what it likes in front of what a trusted proxy adds.
    let hops: Vec<&str> = forwarded
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|hop| str::from_utf8(hop).unwrap_or_default().trim())
        .collect();
    let mut address = peer;
    for hop in hops.into_iter().rev() {
        if !is_trusted(address) {
            break;
        }
        // A hop that is not an address ends the list of known hops.
        let Some(next) = hop_address(hop) else { break };
        address = next;
    }
    address
}

/// The address of a hop. Some proxies add the port, or put IPv6 in brackets.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let in_brackets = || hop.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::from);
    let with_port = || hop.parse::<SocketAddr>().ok().map(|address| address.ip());
    hop.parse().ok().or_else(with_port).or_else(in_brackets)
}

#[cfg(test)]
mod tests;
