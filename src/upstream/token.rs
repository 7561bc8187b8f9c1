//! A bearer token, given as a value or as a file that is read again when it changes, so that a token rotates
//! without a restart.

use std::{path::PathBuf, sync::Mutex, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

/// How old a file's token may be before the file is looked at again.
const FRESH: Duration = Duration::from_secs(1);
/// Largest token file that is read, in bytes; a token has a few hundred.
const BYTES_MAX: u64 = 16 * 1024;

/// Where a token comes from.
#[derive(Debug)]
pub enum TokenSource {
    /// Given in the configuration.
    Value(SecretString),
    /// Read from a file.
    File(TokenFile),
}

/// A file that holds a token, and what was read from it last.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    last: Mutex<Option<(Instant, SecretString)>>,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file can't be read.
    #[error("token file {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is given can't be a token.
    #[error("{0}: expected one line of printable characters without spaces, as an HTTP header can carry")]
    NotAToken(String),
}

impl TokenSource {
    /// The token in the file at `path`, read now and again as it changes.
    #[must_use]
    pub fn file(path: PathBuf) -> Self {
        Self::File(TokenFile { path, last: Mutex::new(None) })
    }

    /// The token as it is now.
    ///
    /// # Errors
    /// [`TokenError`] where the file is gone and none was read before, or holds no token. A file that is gone for a
    /// moment (while it is replaced) leaves the last token in force.
    pub fn current(&self) -> Result<SecretString, TokenError> {
        match self {
            Self::Value(token) => Ok(token.clone()),
            Self::File(file) => file.current(),
        }
    }
}

impl TokenFile {
    fn current(&self) -> Result<SecretString, TokenError> {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((read_at, token)) = last.as_ref()
            && read_at.elapsed() < FRESH
        {
            return Ok(token.clone());
        }
        match (self.read(), last.as_ref()) {
            (Ok(token), _) => {
                crate::masking::remember(token.expose_secret());
                *last = Some((Instant::now(), token.clone()));
                Ok(token)
            }
            (Err(_), Some((_, token))) => Ok(token.clone()),
            (Err(error), None) => Err(error),
        }
    }

    fn read(&self) -> Result<SecretString, TokenError> {
        use std::io::Read;
        let unreadable = |source| TokenError::Unreadable { path: self.path.clone(), source };
        let mut text = String::new();
        std::fs::File::open(&self.path)
            .map_err(unreadable)?
            .take(BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        let token = SecretString::from(text.trim());
        if is_token(&token) {
            Ok(token)
        } else {
            Err(TokenError::NotAToken(format!("token file {}", self.path.display())))
        }
    }
}

/// Whether `token` can stand in an Authorization header (RFC 6750's `b64token`, read generously).
pub(super) fn is_token(token: &SecretString) -> bool {
    let text = token.expose_secret();
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_token_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let missing = TokenSource::file(path.clone()).current().unwrap_err().to_string();
        assert!(missing.contains("token file") && missing.contains("No such file"), "{missing}");
        std::fs::write(&path, "two words\n").unwrap();
        let wrong = TokenSource::file(path).current().unwrap_err().to_string();
        assert!(wrong.contains("expected one line") && !wrong.contains("two words"), "{wrong}");
    }

    #[test]
    fn a_file_that_is_gone_for_a_moment_leaves_the_last_token_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "first\n").unwrap();
        let TokenSource::File(file) = TokenSource::file(path.clone()) else { panic!() };
        assert_eq!(file.current().unwrap().expose_secret(), "first");
        let age = |file: &TokenFile| file.last.lock().unwrap().as_mut().unwrap().0 -= FRESH;
        std::fs::remove_file(&path).unwrap();
        age(&file);
        assert_eq!(file.current().unwrap().expose_secret(), "first");
        std::fs::write(&path, "second").unwrap();
        assert_eq!(file.current().unwrap().expose_secret(), "second");
    }
}
