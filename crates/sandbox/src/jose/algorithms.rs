//! The Guide's values of `jweAlg`, `enc` and `jwsAlg`, with the sizes of RFC 7518.

use serde::{Deserialize, Serialize};

/// Wrapping of the content key: PBES2 with HMAC-SHA-2 and AES key wrap (RFC 7518, section 4.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum KeyEncryption {
    /// `PBES2-HS256+A128KW`
    #[serde(rename = "PBES2-HS256+A128KW")]
    Hs256A128,
    /// `PBES2-HS384+A192KW`
    #[serde(rename = "PBES2-HS384+A192KW")]
    Hs384A192,
    /// `PBES2-HS512+A256KW`, the Guide's default
    #[default]
    #[serde(rename = "PBES2-HS512+A256KW")]
    Hs512A256,
}

impl KeyEncryption {
    /// All of the Guide's values.
    pub(crate) const ALL: [Self; 3] = [Self::Hs256A128, Self::Hs384A192, Self::Hs512A256];

    /// The wire name, which is also a part of the salt.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Hs256A128 => "PBES2-HS256+A128KW",
            Self::Hs384A192 => "PBES2-HS384+A192KW",
            Self::Hs512A256 => "PBES2-HS512+A256KW",
        }
    }

    pub(super) const fn key_bytes(self) -> usize {
        match self {
            Self::Hs256A128 => 16,
            Self::Hs384A192 => 24,
            Self::Hs512A256 => 32,
        }
    }
}

/// Encryption of the signed claims (RFC 7518, section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ContentEncryption {
    /// `A128CBC-HS256`
    #[serde(rename = "A128CBC-HS256")]
    A128CbcHs256,
    /// `A192CBC-HS384`
    #[serde(rename = "A192CBC-HS384")]
    A192CbcHs384,
    /// `A256CBC-HS512`
    #[serde(rename = "A256CBC-HS512")]
    A256CbcHs512,
    /// `A128GCM`
    #[serde(rename = "A128GCM")]
    A128Gcm,
    /// `A192GCM`
    #[serde(rename = "A192GCM")]
    A192Gcm,
    /// `A256GCM`, the Guide's default
    #[default]
    #[serde(rename = "A256GCM")]
    A256Gcm,
}

impl ContentEncryption {
    /// All of the Guide's values.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 6] = [
        Self::A128CbcHs256,
        Self::A192CbcHs384,
        Self::A256CbcHs512,
        Self::A128Gcm,
        Self::A192Gcm,
        Self::A256Gcm,
    ];

    /// Key size. The CBC algorithms combine two keys, for the MAC and for the cipher.
    pub(super) const fn key_bytes(self) -> usize {
        match self {
            Self::A128Gcm => 16,
            Self::A192Gcm => 24,
            Self::A128CbcHs256 | Self::A256Gcm => 32,
            Self::A192CbcHs384 => 48,
            Self::A256CbcHs512 => 64,
        }
    }

    pub(super) const fn iv_bytes(self) -> usize {
        match self {
            Self::A128CbcHs256 | Self::A192CbcHs384 | Self::A256CbcHs512 => 16,
            Self::A128Gcm | Self::A192Gcm | Self::A256Gcm => 12,
        }
    }
}

/// Signature of the claims (RFC 7518, section 3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Signature {
    /// `HS256`
    #[serde(rename = "HS256")]
    Hs256,
    /// `HS384`
    #[serde(rename = "HS384")]
    Hs384,
    /// `HS512`, the Guide's default
    #[default]
    #[serde(rename = "HS512")]
    Hs512,
}

impl Signature {
    /// All of the Guide's values.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 3] = [Self::Hs256, Self::Hs384, Self::Hs512];

    pub(super) const fn hash_bytes(self) -> usize {
        match self {
            Self::Hs256 => 32,
            Self::Hs384 => 48,
            Self::Hs512 => 64,
        }
    }
}
