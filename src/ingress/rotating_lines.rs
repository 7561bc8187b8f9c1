//! A file with one or two lines, such as the old and the new token, which is read again when it changes.

use std::{
    fmt,
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};

/// Maximum age of the lines of a file before the file is read again.
pub(super) const FRESH: Duration = Duration::from_secs(1);
/// Maximum number of bytes that are read from a file.
const FILE_BYTES_MAX: u64 = 16 * 1024;
/// Maximum number of lines in a file: the old one and the new one.
const LINES_MAX: usize = 2;
/// Maximum number of checks in a row that do not read a file because it was just changed.
const DEFERRED_MAX: u32 = 2;

/// The content of a line.
pub(super) trait FileLine: Sized {
    /// Name of the file in errors.
    const FILE: &'static str;
    /// The expected lines.
    const EXPECTED: &'static str;
    /// Log line about a file without lines.
    const EMPTY: &'static str;
    /// Log line about a file that is unusable.
    const UNUSABLE: &'static str;
    /// Log line about a file that is usable again.
    const USABLE: &'static str;

    /// The content of `line`, if it is valid.
    fn of(line: &str) -> Option<Self>;
}

/// Reason that a file is unusable. Shows no part of the file.
#[derive(Debug, thiserror::Error)]
pub enum LineFileError {
    /// The file can't be read.
    #[error("{kind} {}: {source}", path.display())]
    Unreadable { kind: &'static str, path: PathBuf, source: std::io::Error },
    /// The file has content, and it is not one or two valid lines.
    #[error("{kind} {}: {expected}", path.display())]
    Invalid { kind: &'static str, path: PathBuf, expected: &'static str },
}

/// A file, and the lines that were last read from it.
pub(super) struct LineFile<T> {
    path: PathBuf,
    last: Mutex<ReadLines<T>>,
}

struct ReadLines<T> {
    at: Instant,
    lines: Arc<[T]>,
    /// The file was unusable when it was last read, and this was logged.
    is_stale: bool,
    /// Checks in a row that found the file just changed, and did not read it.
    deferred: u32,
}

impl<T> fmt::Debug for LineFile<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl<T: FileLine> LineFile<T> {
    /// Reads the file once as a test.
    ///
    /// # Errors
    /// [`LineFileError`].
    pub(super) fn open(path: PathBuf) -> Result<Self, LineFileError> {
        let last = ReadLines { at: Instant::now(), lines: read(&path)?, is_stale: false, deferred: 0 };
        if last.lines.is_empty() {
            warn_of_empty::<T>(&path);
        }
        Ok(Self { path, last: Mutex::new(last) })
    }

    /// The current lines. A missing file keeps the last ones, because it may be about to be replaced. An empty file, and one
    /// without valid lines, leaves none, because somebody may have withdrawn them. A file that was changed a moment ago may be
    /// half written, and counts from the next read on.
    pub(super) fn current(&self) -> Arc<[T]> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.at.elapsed() < FRESH {
            return Arc::clone(&last.lines);
        }
        last.at = Instant::now();
        // There is nothing to keep after an unusable content, and a file that is changed all the time is read nevertheless.
        let defers = last.deferred < DEFERRED_MAX && !last.is_stale && !last.lines.is_empty();
        if defers && is_new(&self.path) {
            last.deferred += 1;
            return Arc::clone(&last.lines);
        }
        last.deferred = 0;
        match read::<T>(&self.path) {
            Ok(lines) => {
                if std::mem::take(&mut last.is_stale) {
                    info!(file = %self.path.display(), "{}", T::USABLE);
                }
                if lines.is_empty() && !last.lines.is_empty() {
                    warn_of_empty::<T>(&self.path);
                }
                last.lines = lines;
            }
            Err(error) => {
                let keeps = matches!(error, LineFileError::Unreadable { .. });
                if !keeps {
                    last.lines = Arc::from([]);
                }
                if !std::mem::replace(&mut last.is_stale, true) {
                    let lines = if keeps { "still valid" } else { "withdrawn" };
                    warn!(%error, lines, "{}", T::UNUSABLE);
                }
            }
        }
        Arc::clone(&last.lines)
    }
}

/// True if the file was changed within [`FRESH`]. A time in the future tells nothing.
fn is_new(path: &Path) -> bool {
    let modified = std::fs::metadata(path).and_then(|file| file.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < FRESH))
}

fn warn_of_empty<T: FileLine>(path: &Path) {
    warn!(file = %path.display(), "{}", T::EMPTY);
}

/// The lines of the file; none if the file is empty.
fn read<T: FileLine>(path: &Path) -> Result<Arc<[T]>, LineFileError> {
    let kind = T::FILE;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    file.map_err(|source| LineFileError::Unreadable { kind, path: path.to_owned(), source })?;
    let invalid = || LineFileError::Invalid { kind, path: path.to_owned(), expected: T::EXPECTED };
    let text = String::from_utf8(bytes).map_err(|_| invalid())?;
    // Windows editors begin a file with a byte order mark.
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Option<Vec<_>> = lines.map(T::of).collect();
    lines.filter(|lines| lines.len() <= LINES_MAX).map(Arc::from).ok_or_else(invalid)
}
