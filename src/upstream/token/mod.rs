//! A bearer token, given as a value or as a file. The file is read again regularly, so the token can rotate without a
//! restart. [`jwt`] signs tokens with a secret.

mod jwt;
mod rotating_file;

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

use jwt::JwtSigner;
use rotating_file::TokenFile;

use crate::clock::Clock;

/// Source of a token.
#[derive(Debug)]
pub enum TokenSource {
    /// Given in the configuration.
    Value(SecretString),
    /// Read from a file.
    File(TokenFile),
    /// Signed with a secret.
    Jwt(JwtSigner),
}

/// Reason that there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file can't be read.
    #[error("token file {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// The text is not a token. The value names its source.
    #[error("{0}: expected one line of printable characters without spaces, as an HTTP header can carry")]
    NotAToken(String),
    /// The secret of JWTs is not in base64.
    #[error("expected the secret of JWTs in base64, as Webex Connect shows it")]
    NotBase64,
}

impl TokenSource {
    /// The token in the file at `path`, read when it is needed.
    #[must_use]
    pub fn file(path: PathBuf) -> Self {
        Self::File(TokenFile::at(path))
    }

    /// JWTs of `issuer`, signed with the secret of `secret` (base64) in the time of `clock`.
    #[must_use]
    pub fn jwt(issuer: String, secret: Self, clock: Clock) -> Self {
        Self::Jwt(JwtSigner::new(issuer, Box::new(secret), clock))
    }

    /// The current token. A failed read, for example while the file is replaced, keeps the last token and is logged once.
    ///
    /// # Errors
    /// [`TokenError`] if the file cannot be read or holds no token, and no token was read before; or if no JWT can be signed.
    pub fn current(&self) -> Result<SecretString, TokenError> {
        match self {
            Self::Value(token) => Ok(token.clone()),
            Self::File(file) => file.current(),
            Self::Jwt(signer) => signer.current(),
        }
    }

    /// True if the file now has another token, or another secret, than at the last call.
    #[must_use]
    pub fn is_replaced(&self) -> bool {
        match self {
            Self::Value(_) => false,
            Self::File(file) => file.is_replaced(),
            Self::Jwt(signer) => signer.is_replaced(),
        }
    }
}

/// True if an Authorization header can carry `token` (a lenient reading of `b64token` in RFC 6750).
pub(crate) fn is_token(token: &SecretString) -> bool {
    let text = token.expose_secret();
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}
