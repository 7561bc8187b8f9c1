//! The signing secrets of a client, and the signature of a request, in the format of Standard Webhooks.
//!
//! - `given`: the headers with the signature

mod given;

use std::{path::Path, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

pub(super) use self::given::{GivenSignature, SIGNATURE};
use super::rotating_lines::{FileLine, LineFile, LineFileError};
use crate::masking;

/// Beginning of a secret in text.
const PREFIX: &str = "whsec_";
/// Length of secrets, decoded.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// The expected form of a secret.
pub(crate) const SIGNING_SECRET: &str =
    "expected whsec_ and 24 to 64 bytes in base64, such as `instant-connect-worker token --signing` makes";

/// True if `text` can be a secret.
pub(crate) fn is_signing_secret(text: &str) -> bool {
    bytes_of(text).is_some()
}

/// The text of a secret.
pub(crate) fn secret_of(bytes: &[u8]) -> String {
    format!("{PREFIX}{}", STANDARD.encode(bytes))
}

/// The headers of a request that a client signs with `secret` at `now`; `None` if `id` cannot name a signed request.
pub(crate) fn signed_headers(
    secret: &SecretString,
    id: &str,
    now: Timestamp,
    body: &[u8],
) -> Option<Vec<(&'static str, String)>> {
    let seconds = now.as_second();
    let prefix = given::prefix(id, &seconds.to_string())?;
    let signature = SigningSecret::of(secret.expose_secret())?.sign([prefix.as_bytes(), body])?;
    Some(vec![
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", seconds.to_string()),
        ("webhook-signature", given::versioned(&signature)),
    ])
}

fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(text.strip_prefix(PREFIX)?).ok()?;
    SECRET_BYTES.contains(&bytes.len()).then_some(bytes)
}

/// A secret with which a client signs.
#[derive(Debug)]
struct SigningSecret(SecretSlice<u8>);

impl FileLine for SigningSecret {
    const FILE: &'static str = "secret file";
    const EXPECTED: &'static str =
        "expected at most two lines, each with whsec_ and 24 to 64 bytes in base64";
    const EMPTY: &'static str =
        "a client's secret file has no secret; signatures with secrets from this file are not accepted";
    const UNUSABLE: &'static str = "could not reload a client's secret file";
    const USABLE: &'static str = "a client's secret file is usable again";

    fn of(line: &str) -> Option<Self> {
        let bytes = bytes_of(line)?;
        // Without the prefix, because another program may show the secret without it.
        masking::remember(line.strip_prefix(PREFIX)?);
        Some(Self(bytes.into()))
    }
}

impl SigningSecret {
    /// The signature of the concatenated `parts`.
    fn sign(&self, parts: [&[u8]; 2]) -> Option<[u8; 32]> {
        // A key of any length is valid.
        let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(self.0.expose_secret()).ok()?;
        let signature = parts.into_iter().fold(mac, Mac::chain_update).finalize();
        signature.into_bytes().as_slice().try_into().ok()
    }
}

/// The secrets of one client.
#[derive(Debug)]
pub(super) struct ClientSecrets {
    fixed: Option<SigningSecret>,
    file: Option<LineFile<SigningSecret>>,
}

impl ClientSecrets {
    /// The secrets of the settings of a client. The file is read once as a test.
    ///
    /// # Errors
    /// [`LineFileError`].
    pub(super) fn open(secret: &SecretString, file: Option<&Path>) -> Result<Self, LineFileError> {
        let fixed = SigningSecret::of(secret.expose_secret());
        let file = file.map(|path| LineFile::open(path.to_owned())).transpose()?;
        Ok(Self { fixed, file })
    }

    /// True if the settings have a secret or a file, which may be empty.
    pub(super) const fn is_set(&self) -> bool {
        self.fixed.is_some() || self.file.is_some()
    }

    /// Compares the signature of `body` with each secret's. The time does not depend on the place of a difference, or on which secret it
    /// is. It grows with the number of secrets, because each one needs the hash of the whole body.
    pub(super) fn match_signature(&self, given: &GivenSignature, body: &[u8]) -> Choice {
        let current = self.current();
        let all = self.fixed.iter().chain(current.iter());
        all.fold(Choice::from(0), |found, secret| found | given.is_by(secret, body))
    }

    /// True if one of the secrets is also one of `other`.
    pub(super) fn overlap(&self, other: &Self) -> bool {
        let (current, others) = (self.current(), other.current());
        let contains = |secret: &SigningSecret| {
            let mut all = other.fixed.iter().chain(others.iter());
            all.any(|other| bool::from(other.0.expose_secret().ct_eq(secret.0.expose_secret())))
        };
        self.fixed.iter().chain(current.iter()).any(contains)
    }

    fn current(&self) -> Arc<[SigningSecret]> {
        self.file.as_ref().map(LineFile::current).unwrap_or_default()
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
