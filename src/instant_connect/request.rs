//! The body of `POST /api/v2/joseencrypt`, as described in Instant Connect's Guide.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::links_call::LinksCall;
use crate::contract::{device::Device, start_session::Session};

/// Algorithm that encrypts the key of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum JweAlg {
    #[serde(rename = "PBES2-HS256+A128KW")]
    Pbes2Hs256A128Kw,
    #[serde(rename = "PBES2-HS384+A192KW")]
    Pbes2Hs384A192Kw,
    #[serde(rename = "PBES2-HS512+A256KW")]
    Pbes2Hs512A256Kw,
}

/// Algorithm that encrypts the claims of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Enc {
    #[serde(rename = "A128CBC-HS256")]
    A128CbcHs256,
    #[serde(rename = "A192CBC-HS384")]
    A192CbcHs384,
    #[serde(rename = "A256CBC-HS512")]
    A256CbcHs512,
    #[serde(rename = "A128GCM")]
    A128Gcm,
    #[serde(rename = "A192GCM")]
    A192Gcm,
    #[serde(rename = "A256GCM")]
    A256Gcm,
}

/// Algorithm that signs the claims of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum JwsAlg {
    #[serde(rename = "HS256")]
    Hs256,
    #[serde(rename = "HS384")]
    Hs384,
    #[serde(rename = "HS512")]
    Hs512,
}

/// The Guide's advanced options. Instant Connect uses its default for an option that is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Crypto {
    /// Key encryption.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwe_alg: Option<JweAlg>,
    /// 8 to 128 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub salt_length: Option<u8>,
    /// 1000 to 32767.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iterations: Option<u16>,
    /// Content encryption.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enc: Option<Enc>,
    /// Signature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jws_alg: Option<JwsAlg>,
}

/// The request body.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Request<'a> {
    jwt: Jwt<'a>,
    aud: &'a str,
    num_host: usize,
    num_guest: usize,
    provide_short_urls: bool,
    vertical_type: &'static str,
    login_url_for_host: bool,
    #[serde(flatten)]
    crypto: Crypto,
}

/// The claims. `nbf` and `exp` are lower case and in seconds. The Guide's samples use capitals and milliseconds, which
/// contradicts the Guide's own table and RFC 7519.
#[derive(Debug, Serialize)]
struct Jwt<'a> {
    sub: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    flow: Option<Flow<'a>>,
}

/// Devices that are called into the meeting without knocking.
#[derive(Debug, Serialize)]
struct Flow<'a> {
    id: &'static str,
    data: Vec<Uri<'a>>,
}

#[derive(Debug, Serialize)]
struct Uri<'a> {
    uri: &'a str,
}

/// Settings that are the same for every request.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    /// The audience.
    pub aud: String,
    /// Requests short links.
    pub short_urls: bool,
    /// The advanced options.
    pub crypto: Crypto,
}

impl<'a> Request<'a> {
    /// The request for `call` of `session`. Only the first call contains the devices, so that later ones do not call them
    /// again.
    #[must_use]
    pub fn new(options: &'a LinkOptions, session: &'a Session, call: &LinksCall) -> Self {
        let devices = if call.is_first() { session.devices.as_slice() } else { &[] };
        let data: Vec<_> = devices.iter().map(Device::reveal).map(|uri| Uri { uri }).collect();
        Self {
            jwt: Jwt {
                sub: &session.subject,
                nbf: session.not_before.map(crate::contract::time::WireTime::unix_seconds),
                exp: session.expires_at.unix_seconds(),
                flow: (!data.is_empty()).then_some(Flow { id: "sip-no-knock", data }),
            },
            aud: &options.aud,
            num_host: call.hosts.len(),
            num_guest: call.guests.len(),
            provide_short_urls: options.short_urls,
            vertical_type: session.vertical.as_str(),
            login_url_for_host: session.host_login,
            crypto: options.crypto,
        }
    }
}
