//! A token file, which is read again regularly.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{TokenError, is_token};

/// Maximum age of a token before its file is read again.
const FRESH: Duration = Duration::from_secs(1);
/// Maximum number of bytes that are read from a token file; a token has a few hundred bytes.
const BYTES_MAX: u64 = 16 * 1024;

/// A token file, and the token that was last read from it.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    last: Mutex<Option<LastRead>>,
}

#[derive(Debug)]
struct LastRead {
    at: Instant,
    token: SecretString,
    /// The file could not be used at the last attempt to read it, and this was logged.
    is_stale: bool,
}

impl TokenFile {
    pub(super) const fn at(path: PathBuf) -> Self {
        Self { path, last: Mutex::new(None) }
    }

    /// True if the file now has another token than at the last read.
    pub(super) fn is_replaced(&self) -> bool {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.as_ref().map(|last| last.token.expose_secret());
        self.read().is_ok_and(|token| Some(token.expose_secret()) != before)
    }

    /// The token in the file, or the last one while the file is unusable.
    pub(super) fn current(&self) -> Result<SecretString, TokenError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.as_ref().filter(|last| last.at.elapsed() < FRESH) {
            return Ok(last.token.clone());
        }
        match (self.read(), last.as_mut()) {
            (Ok(token), before) => {
                crate::masking::remember(token.expose_secret());
                if before.is_some_and(|last| last.is_stale) {
                    info!(file = %self.path.display(), "token file is usable again; using its token");
                }
                *last = Some(LastRead { at: Instant::now(), token: token.clone(), is_stale: false });
                Ok(token)
            }
            (Err(error), Some(last)) => {
                if !std::mem::replace(&mut last.is_stale, true) {
                    warn!(%error, "could not reload the token file; still using the last token");
                }
                // The next attempt follows after the same time, also if the file stays unusable.
                last.at = Instant::now();
                Ok(last.token.clone())
            }
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
        // Windows editors begin a file with a byte order mark.
        let token = SecretString::from(text.trim_start_matches('\u{feff}').trim());
        if is_token(&token) {
            Ok(token)
        } else {
            Err(TokenError::NotAToken(format!("token file {}", self.path.display())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::TokenSource, *};

    #[test]
    fn file_without_a_token_is_an_error_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let missing = TokenSource::file(path.clone()).current().unwrap_err().to_string();
        assert!(missing.contains("token file") && missing.contains("No such file"), "{missing}");
        std::fs::write(&path, "two words\n").unwrap();
        let wrong = TokenSource::file(path).current().unwrap_err().to_string();
        assert!(wrong.contains("expected one line") && !wrong.contains("two words"), "{wrong}");
    }

    #[test]
    fn missing_file_keeps_the_last_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "first\n").unwrap();
        let TokenSource::File(file) = TokenSource::file(path.clone()) else { panic!() };
        assert_eq!(file.current().unwrap().expose_secret(), "first");
        let read_again = |file: &TokenFile| {
            file.last.lock().unwrap().as_mut().unwrap().at -= FRESH;
            file.current().unwrap().expose_secret().to_owned()
        };
        let is_stale = |file: &TokenFile| file.last.lock().unwrap().as_ref().unwrap().is_stale;
        std::fs::remove_file(&path).unwrap();
        assert_eq!((read_again(&file).as_str(), is_stale(&file)), ("first", true));
        std::fs::write(&path, "Bearer second").unwrap();
        assert_eq!((read_again(&file).as_str(), is_stale(&file)), ("first", true));
        let source = TokenSource::File(file);
        assert!(!source.is_replaced(), "an unusable file is no new token");
        std::fs::write(&path, "\u{feff}second\r\n").unwrap();
        assert!(source.is_replaced());
        let TokenSource::File(file) = source else { panic!() };
        assert_eq!((read_again(&file).as_str(), is_stale(&file)), ("second", false));
    }
}
