//! Errors of the ledger.

use std::{path::PathBuf, time::Duration};

/// A failed ledger operation. The text contains no ledger content and no password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Another process has the file open.
    #[error(
        "ledger {}: in use by another process; hint: give each worker its own ledger.path, \
         or set ledger.kind = \"redis\" for all of them", path.display()
    )]
    InUse { path: PathBuf },
    /// The file is not a ledger, or is damaged. It is not replaced by a new one.
    #[error(
        "ledger {}: damaged, or not a ledger ({reason}); hint: restore a copy, or move the file away to start with an \
         empty ledger; an empty ledger does not know earlier sessions, so repeated events are processed again",
        path.display()
    )]
    Damaged { path: PathBuf, reason: String },
    /// The disk has no space left.
    #[error("ledger {}: disk full; hint: free some space, writes resume automatically", path.display())]
    Full { path: PathBuf },
    /// The file can't be opened, read or written.
    #[error("ledger {}: {reason}; hint: check ledger.path, the owner of the file and the disk", path.display())]
    File {
        path: PathBuf,
        /// Text of the system's error.
        reason: String,
    },
    /// The URL is not a Redis URL.
    #[error("ledger.url: {problem}")]
    Url {
        /// The expected form.
        problem: String,
    },
    /// The file with the URL can't be read, or its URL can't be used.
    #[error("ledger.url_file {}: {reason}", path.display())]
    UrlFile { path: PathBuf, reason: String },
    /// The connection to Redis failed.
    #[error(
        "ledger: cannot reach Redis: {reason}; hint: check ledger.url (or ledger.url_file) and that Redis is running"
    )]
    Unreachable { reason: String },
    /// Redis did not respond in time.
    #[error(
        "ledger: no response from Redis within {} s; hint: check the load of Redis and the network",
        limit.as_secs()
    )]
    Slow { limit: Duration },
    /// Redis answered with an error.
    #[error(
        "ledger: Redis refused ({reason}); hint: check the log, the memory and the access rules of Redis"
    )]
    Refused {
        /// Kind and code of the error. Its text is left out, because it may repeat what was sent.
        reason: String,
    },
    /// The lease expired before the result was recorded, and another worker has claimed the key.
    #[error("ledger: lease lost: another worker claimed this event before the result was recorded")]
    Lost,
    /// A key or a value is larger than its limit.
    #[error("ledger: {what} has {bytes} bytes; the limit is {bytes_max}")]
    TooLarge {
        /// A key, a note or a result.
        what: &'static str,
        bytes: usize,
        bytes_max: usize,
    },
    /// [`close`](super::Ledger::close) was called.
    #[error("ledger: closed")]
    Closed,
}
