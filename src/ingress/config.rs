//! Settings of a client.

use std::{fmt, net::IpAddr, path::PathBuf};

use axum::http::HeaderName;
use ipnet::IpNet;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;

use crate::values::{Bounded, FromText, empty_is_none};

/// The header of the signature of receipts.
pub(super) const HUB_SIGNATURE: &str = "x-hub-signature";

/// Section `ingress.clients.NAME`; `config/default.toml` documents each key.
#[derive(Debug, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "config/default.toml documents every key")]
pub struct ClientConfig {
    #[serde(deserialize_with = "empty_is_none")]
    pub token_file: Option<PathBuf>,
    #[schemars(with = "String")]
    pub token: SecretString,
    #[serde(deserialize_with = "empty_is_none")]
    #[schemars(with = "String", regex(pattern = "^([0-9A-Fa-f]{64})?$"))]
    pub token_sha256: Option<TokenDigest>,
    #[serde(deserialize_with = "empty_is_none")]
    pub signing_secret_file: Option<PathBuf>,
    #[schemars(with = "String")]
    pub signing_secret: SecretString,
    pub scopes: Vec<ClientScope>,
    pub rate: Bounded<1, 10000>,
    pub burst: Bounded<1, 100_000>,
    pub allowed_addresses: Vec<AddressBlock>,
}

/// A kind of request that a client may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientScope {
    /// `POST /v1/sessions`.
    Start,
}

/// Hash of the signature of receipts: `receipts.algorithm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HubAlgorithm {
    /// HMAC-SHA-256.
    Sha256,
    /// HMAC-SHA-512.
    Sha512,
}

/// The name of the header with the key of receipts: `receipts.key_header`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyHeader(HeaderName);

impl KeyHeader {
    /// The name, in lower case.
    #[must_use]
    pub const fn name(&self) -> &HeaderName {
        &self.0
    }
}

impl TryFrom<String> for KeyHeader {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let name = HeaderName::from_bytes(text.as_bytes()).ok().filter(|_| is_plain);
        let other = name.filter(|name| name != HUB_SIGNATURE);
        other.map(Self).ok_or("expected the name of a header: letters, digits and -, and not x-hub-signature")
    }
}

/// The SHA-256 digest of a token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenDigest(pub(super) [u8; 32]);

impl TokenDigest {
    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 2 * bytes.len() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, position) in bytes.iter_mut().zip((0..text.len()).step_by(2)) {
            *byte = u8::from_str_radix(text.get(position..position + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// 64 hexadecimal digits.
    #[must_use]
    pub fn to_hex(self) -> String {
        self.0.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest")
    }
}

impl FromText for TokenDigest {
    fn from_text(text: String) -> Result<Self, String> {
        Self::from_hex(&text).ok_or_else(|| "expected 64 hexadecimal digits".to_owned())
    }
}

/// An IP address or a CIDR block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AddressBlock(IpNet);

impl AddressBlock {
    /// True if `address` belongs to the block.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// True if the block contains every address of its family.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.0.prefix_len() == 0
    }
}

impl TryFrom<String> for AddressBlock {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let block = text.parse::<IpAddr>().map(IpNet::from).or_else(|_| text.parse::<IpNet>());
        block.map(Self).map_err(|_| "expected an IP address, or a CIDR block such as 10.0.0.0/8")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_has_64_hexadecimal_digits() {
        let digest = TokenDigest::from_hex(&"0aF".repeat(22)[..64]).unwrap();
        assert_eq!(digest.0[..3], [0x0a, 0xf0, 0xaf]);
        for wrong in [String::new(), "0".repeat(63), "0".repeat(65), "+1".repeat(32), "é".repeat(32)] {
            assert_eq!(TokenDigest::from_hex(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn block_contains_addresses_in_either_notation() {
        let block = |text: &str| AddressBlock::try_from(text.to_owned());
        for (text, address, contained) in [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("2001:db8::/32", "2001:db8::1", true),
        ] {
            assert_eq!(
                block(text).unwrap().contains(address.parse().unwrap()),
                contained,
                "{text} {address}"
            );
        }
        assert!(block("example.com").is_err() && block("10.0.0.0/33").is_err());
    }
}
