//! The body of `POST /api/v2/joseencrypt`, as described in Instant Connect's Guide.

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::contract::{device::Device, start_session::Session};

/// Maximum number of links in one call, hosts and guests together (Guide).
pub const LINKS_MAX: usize = 25;

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

/// The people for whom one call requests links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinksCall {
    /// Positions among the experts.
    pub hosts: Range<usize>,
    /// Positions among the guests.
    pub guests: Range<usize>,
}

impl LinksCall {
    /// The next call of a session with `hosts` and `guests` of which `links` are made. Hosts come first, with at most
    /// [`LINKS_MAX`] links. `None` if all links are made.
    #[must_use]
    pub fn after(links: usize, hosts: usize, guests: usize) -> Option<Self> {
        let all = hosts + guests;
        let end = (links + LINKS_MAX).min(all);
        (links < all).then(|| Self {
            hosts: links.min(hosts)..end.min(hosts),
            guests: links.max(hosts) - hosts..end.max(hosts) - hosts,
        })
    }

    /// Number of requested links.
    #[must_use]
    pub fn links(&self) -> usize {
        self.hosts.len() + self.guests.len()
    }

    /// True for the first call of a session, because every session has an expert.
    const fn is_first(&self) -> bool {
        self.hosts.start == 0
    }
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
    /// The request for `call` of `session`. Only the first call contains the devices, so that each is called once.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_person_is_in_exactly_one_call_within_the_limit(hosts in 1usize..80, guests in 1usize..400) {
            let mut made = 0;
            let calls: Vec<_> = std::iter::from_fn(|| {
                LinksCall::after(made, hosts, guests).inspect(|call| made += call.links())
            })
            .collect();
            prop_assert!(calls.iter().all(|c| (1..=LINKS_MAX).contains(&c.links())));
            let all_hosts: Vec<_> = calls.iter().flat_map(|c| c.hosts.clone()).collect();
            let all_guests: Vec<_> = calls.iter().flat_map(|c| c.guests.clone()).collect();
            prop_assert_eq!(all_hosts, (0..hosts).collect::<Vec<_>>());
            prop_assert_eq!(all_guests, (0..guests).collect::<Vec<_>>());
            prop_assert!(!calls[0].hosts.is_empty(), "the call with the devices has a host");
            prop_assert!(calls.iter().enumerate().all(|(number, call)| call.is_first() == (number == 0)));
        }
    }
}
