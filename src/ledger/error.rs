//! What can be wrong with the ledger, for people.

use std::{path::PathBuf, time::Duration};

/// Why the ledger did not do what it was asked. Shows nothing of what it keeps, and no password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Another process has the file open.
    #[error(
        "ledger {}: in use by another process; hint: give each worker a ledger.path of its own, \
         or all of them ledger.kind = \"redis\"", path.display()
    )]
    InUse {
        /// Which file.
        path: PathBuf,
    },
    /// The file is not a ledger, or is damaged. No new one is made in its place.
    #[error(
        "ledger {}: damaged, or not a ledger ({reason}); hint: put a copy of it back, or move it away to start \
         with an empty one, which knows nothing of the sessions so far: events that come again are served again",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The disk has no room left.
    #[error("ledger {}: its disk is full; hint: make room, the ledger goes on by itself", path.display())]
    Full {
        /// Which file.
        path: PathBuf,
    },
    /// The file can't be opened, read or written.
    #[error("ledger {}: {reason}; hint: see ledger.path, its owner and its disk", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The URL is not one of Redis.
    #[error("ledger.url: {problem}")]
    Url {
        /// What was expected.
        problem: String,
    },
    /// The file with the URL can't be read, or holds none that may be used.
    #[error("ledger.url_file {}: {reason}", path.display())]
    UrlFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Redis can't be reached.
    #[error(
        "ledger: Redis can't be reached ({reason}); hint: see ledger.url (or its file), and whether it runs"
    )]
    Unreachable {
        /// What the connection says.
        reason: String,
    },
    /// Redis gave no answer in time.
    #[error("ledger: no answer from Redis within {} s; hint: see its load and the network", limit.as_secs())]
    Slow {
        /// How long it had.
        limit: Duration,
    },
    /// Redis refused.
    #[error("ledger: Redis refused ({reason}); hint: see its log, memory and access rules")]
    Refused {
        /// The kind and code of its answer, which may itself repeat what it was sent.
        reason: String,
    },
    /// The claim ended before its result was recorded, and somebody else has taken it since.
    #[error("ledger: the claim ended before its result was recorded, and another worker has it now")]
    Lost,
    /// More than the ledger takes.
    #[error("ledger: {what} of {bytes} bytes, at most {bytes_max} can be kept")]
    TooLarge {
        /// A key, a note or a result.
        what: &'static str,
        /// Its size, in bytes.
        bytes: usize,
        /// The limit, in bytes.
        bytes_max: usize,
    },
    /// [`close`](super::Ledger::close) was called.
    #[error("ledger: closed")]
    Closed,
}
