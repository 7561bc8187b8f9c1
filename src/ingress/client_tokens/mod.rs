//! The valid tokens of a client, as digests.

use std::{path::Path, sync::Arc};

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::{
    config::TokenDigest,
    rotating_lines::{FileLine, LineFile, LineFileError},
};
use crate::masking;

/// Length of tokens. 22 random characters of base64 have 128 bits.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 22..=512;

/// The expected form of a token.
pub(crate) const CLIENT_TOKEN: &str =
    "expected 22 to 512 printable characters without spaces, such as `instant-connect-worker token` makes";

/// True if `text` is long enough for a token, and an Authorization header can carry it.
pub(crate) fn is_client_token(text: &str) -> bool {
    TOKEN_BYTES.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// The SHA-256 digest of `token`.
pub(crate) fn digest_of(token: &str) -> TokenDigest {
    TokenDigest(Sha256::digest(token).into())
}

/// The tokens of one client.
#[derive(Debug)]
pub(super) struct ClientTokens {
    fixed: Vec<TokenDigest>,
    file: Option<LineFile<TokenDigest>>,
}

impl ClientTokens {
    /// The tokens of the settings of a client. The file is read once as a test.
    ///
    /// # Errors
    /// [`LineFileError`].
    pub(super) fn open(
        token: &SecretString,
        digest: Option<TokenDigest>,
        file: Option<&Path>,
    ) -> Result<Self, LineFileError> {
        let token = token.expose_secret();
        masking::remember(token);
        let fixed = Some(token).filter(|token| !token.is_empty()).map(digest_of).into_iter().chain(digest);
        let file = file.map(|path| LineFile::open(path.to_owned())).transpose()?;
        Ok(Self { fixed: fixed.collect(), file })
    }

    /// Compares `given` with each token. The time does not depend on the place of a difference, or on which token it is.
    pub(super) fn matches(&self, given: &TokenDigest) -> Choice {
        let current = self.current();
        let all = self.fixed.iter().chain(current.iter());
        all.fold(Choice::from(0), |found, known| found | known.0.ct_eq(&given.0))
    }

    /// True if one of the tokens is also one of `other`.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let current = self.current();
        self.fixed.iter().chain(current.iter()).any(|digest| other.matches(digest).into())
    }

    fn current(&self) -> Arc<[TokenDigest]> {
        self.file.as_ref().map(LineFile::current).unwrap_or_default()
    }
}

impl FileLine for TokenDigest {
    const FILE: &'static str = "token file";
    const EXPECTED: &'static str = "expected at most two lines, each with a token or with sha256: and 64 hexadecimal digits; a token has 22 to 512 printable characters without spaces";
    const EMPTY: &'static str = "a client's token file has no token; tokens from this file are not accepted";
    const UNUSABLE: &'static str = "could not reload a client's token file";
    const USABLE: &'static str = "a client's token file is usable again";

    fn of(line: &str) -> Option<Self> {
        digest_in(line)
    }
}

/// The digest in a line of a token file.
fn digest_in(line: &str) -> Option<TokenDigest> {
    if let Some(digest) = line.strip_prefix("sha256:") {
        return TokenDigest::from_hex(digest.trim());
    }
    if !is_client_token(line) {
        return None;
    }
    masking::remember(line);
    Some(digest_of(line))
}

#[cfg(test)]
mod tests;
