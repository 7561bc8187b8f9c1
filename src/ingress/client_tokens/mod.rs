//! The valid tokens of a client, as digests.

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tokio::time::Instant;
use tracing::{info, warn};

use super::config::TokenDigest;
use crate::masking;

/// Maximum age of the tokens of a file before the file is read again.
const FRESH: Duration = Duration::from_secs(1);
/// Maximum number of bytes that are read from a token file.
const FILE_BYTES_MAX: u64 = 16 * 1024;
/// Maximum number of tokens in a file: the old one and the new one.
const LINES_MAX: usize = 2;
/// Length of tokens. 22 random characters of base64 have 128 bits.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 22..=512;

/// The expected form of a token.
pub(crate) const CLIENT_TOKEN: &str =
    "expected 22 to 512 printable characters without spaces, such as `instant-connect-worker token` makes";

/// True if `text` is long enough for a token, and an Authorization header can carry it.
pub(crate) fn is_client_token(text: &str) -> bool {
    TOKEN_BYTES.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Reason that a token file is unusable. Shows no part of the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenFileError {
    /// The file can't be read.
    #[error("token file {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// The file has content, and it is not one or two tokens.
    #[error("token file {}: expected at most two lines, each with a token or with sha256: and 64 hexadecimal digits; a token has 22 to 512 printable characters without spaces", .0.display())]
    NoTokens(PathBuf),
}

/// The SHA-256 digest of `token`.
pub(crate) fn digest_of(token: &str) -> TokenDigest {
    TokenDigest(Sha256::digest(token).into())
}

/// The tokens of one client.
#[derive(Debug)]
pub(super) struct ClientTokens {
    fixed: Vec<TokenDigest>,
    file: Option<DigestFile>,
}

impl ClientTokens {
    /// The tokens of the settings of a client. The file is read once as a test.
    ///
    /// # Errors
    /// [`TokenFileError`].
    pub(super) fn open(
        token: &SecretString,
        digest: Option<TokenDigest>,
        file: Option<&Path>,
    ) -> Result<Self, TokenFileError> {
        let token = token.expose_secret();
        masking::remember(token);
        let fixed = Some(token).filter(|token| !token.is_empty()).map(digest_of).into_iter().chain(digest);
        let file = file.map(|path| DigestFile::open(path.to_owned())).transpose()?;
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
        self.file.as_ref().map(DigestFile::current).unwrap_or_default()
    }
}

/// Maximum number of checks in a row that do not read a file because it was just changed.
const DEFERRED_MAX: u32 = 2;

/// A token file, and the tokens that were last read from it.
#[derive(Debug)]
struct DigestFile {
    path: PathBuf,
    last: Mutex<ReadDigests>,
}

#[derive(Debug)]
struct ReadDigests {
    at: Instant,
    digests: Arc<[TokenDigest]>,
    /// The file was unusable when it was last read, and this was logged.
    is_stale: bool,
    /// Checks in a row that found the file just changed, and did not read it.
    deferred: u32,
}

impl DigestFile {
    fn open(path: PathBuf) -> Result<Self, TokenFileError> {
        let last = ReadDigests { at: Instant::now(), digests: read(&path)?, is_stale: false, deferred: 0 };
        if last.digests.is_empty() {
            warn_of_empty(&path);
        }
        Ok(Self { path, last: Mutex::new(last) })
    }

    /// The current tokens. A missing file keeps the last ones, because it may be about to be replaced. An empty file, and one
    /// without valid tokens, leaves none, because somebody may have withdrawn them. A file that was changed a moment ago may be
    /// half written, and counts from the next read on.
    fn current(&self) -> Arc<[TokenDigest]> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.at.elapsed() < FRESH {
            return Arc::clone(&last.digests);
        }
        last.at = Instant::now();
        // There is nothing to keep after an unusable content, and a file that is changed all the time is read nevertheless.
        let defers = last.deferred < DEFERRED_MAX && !last.is_stale && !last.digests.is_empty();
        if defers && is_new(&self.path) {
            last.deferred += 1;
            return Arc::clone(&last.digests);
        }
        last.deferred = 0;
        match read(&self.path) {
            Ok(digests) => {
                if std::mem::take(&mut last.is_stale) {
                    info!(file = %self.path.display(), "a client's token file is usable again");
                }
                if digests.is_empty() && !last.digests.is_empty() {
                    warn_of_empty(&self.path);
                }
                last.digests = digests;
            }
            Err(error) => {
                let keeps = matches!(error, TokenFileError::Unreadable { .. });
                if !keeps {
                    last.digests = Arc::default();
                }
                if !std::mem::replace(&mut last.is_stale, true) {
                    let tokens = if keeps { "still valid" } else { "withdrawn" };
                    warn!(%error, tokens, "could not reload a client's token file");
                }
            }
        }
        Arc::clone(&last.digests)
    }
}

/// True if the file was changed within [`FRESH`]. A time in the future tells nothing.
fn is_new(path: &Path) -> bool {
    let modified = std::fs::metadata(path).and_then(|file| file.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < FRESH))
}

fn warn_of_empty(path: &Path) {
    warn!(file = %path.display(), "a client's token file has no token; tokens from this file are not accepted");
}

/// The tokens of the file; none if the file is empty.
fn read(path: &Path) -> Result<Arc<[TokenDigest]>, TokenFileError> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    file.map_err(|source| TokenFileError::Unreadable { path: path.to_owned(), source })?;
    let text = String::from_utf8(bytes).map_err(|_| TokenFileError::NoTokens(path.to_owned()))?;
    // Windows editors begin a file with a byte order mark.
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim).filter(|line| !line.is_empty());
    let digests: Option<Vec<_>> = lines.map(digest_in).collect();
    match digests {
        Some(digests) if digests.len() <= LINES_MAX => Ok(digests.into()),
        _ => Err(TokenFileError::NoTokens(path.to_owned())),
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
