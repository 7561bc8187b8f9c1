//! A bearer token, given as a value or as a file. The file is read again regularly, so the token can rotate without a
//! restart.

mod file;

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

use file::TokenFile;

/// Source of a token.
#[derive(Debug)]
pub enum TokenSource {
    /// Given in the configuration.
    Value(SecretString),
    /// Read from a file.
    File(TokenFile),
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
}

impl TokenSource {
    /// The token in the file at `path`, read when it is needed.
    #[must_use]
    pub fn file(path: PathBuf) -> Self {
        Self::File(TokenFile::at(path))
    }

    /// The current token. A failed read, for example while the file is replaced, keeps the last token and is logged once.
    ///
    /// # Errors
    /// [`TokenError`] if the file cannot be read or holds no token, and no token was read before.
    pub fn current(&self) -> Result<SecretString, TokenError> {
        match self {
            Self::Value(token) => Ok(token.clone()),
            Self::File(file) => file.current(),
        }
    }

    /// True if the file now has another token than at the last call.
    #[must_use]
    pub fn is_replaced(&self) -> bool {
        matches!(self, Self::File(file) if file.is_replaced())
    }
}

/// True if an Authorization header can carry `token` (a lenient reading of `b64token` in RFC 6750).
pub(crate) fn is_token(token: &SecretString) -> bool {
    let text = token.expose_secret();
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}
