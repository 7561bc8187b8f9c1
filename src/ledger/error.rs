//! Errors of the ledger.

use std::{fmt, path::PathBuf, time::Duration};

/// A failed ledger operation. The text contains no ledger content and no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerError {
    /// Another process has the file open.
    InUse { path: PathBuf },
    /// The file is not a ledger, or is damaged. It is not replaced by a new one.
    Damaged { path: PathBuf, reason: String },
    /// The disk has no space left.
    Full { path: PathBuf },
    /// The file can't be opened, read or written.
    File {
        path: PathBuf,
        /// Text of the system's error.
        reason: String,
    },
    /// The disk of the file did not respond in time.
    Stalled { path: PathBuf, limit: Duration },
    /// The URL is not a Redis URL.
    Url {
        /// The expected form.
        problem: String,
    },
    /// The file with the URL can't be read, or its URL can't be used.
    UrlFile { path: PathBuf, reason: String },
    /// The connection to Redis failed.
    Unreachable { reason: String },
    /// Redis did not respond in time.
    Slow { limit: Duration },
    /// Redis responded with an error.
    Refused {
        /// Kind and code of the error. Its text is left out, because it may repeat what was sent.
        reason: String,
    },
    /// The lease expired before the result was recorded, and another worker has claimed the key.
    Lost,
    /// A key or a value is larger than its limit.
    TooLarge {
        /// A key, a note or a result.
        what: &'static str,
        bytes: usize,
        bytes_max: usize,
    },
    /// [`close`](super::Ledger::close) was called.
    Closed,
}

impl LedgerError {
    /// The problem with its file or setting, without the hint.
    #[must_use]
    pub fn problem(&self) -> String {
        match self {
            Self::InUse { path } => format!("{}: in use by another process", path.display()),
            Self::Damaged { path, reason } => {
                format!("{}: damaged, or not a ledger ({reason})", path.display())
            }
            Self::Full { path } => format!("{}: disk full", path.display()),
            Self::File { path, reason } => format!("{}: {reason}", path.display()),
            Self::Stalled { path, limit } => {
                format!("{}: no response from the disk within {} s", path.display(), limit.as_secs())
            }
            Self::Url { problem } => format!("ledger.url: {problem}"),
            Self::UrlFile { path, reason } => format!("ledger.url_file {}: {reason}", path.display()),
            Self::Unreachable { reason } => format!("cannot reach Redis: {reason}"),
            Self::Slow { limit } => format!("no response from Redis within {} s", limit.as_secs()),
            Self::Refused { reason } => format!("Redis refused ({reason})"),
            Self::Lost => {
                "lease lost: another worker claimed this event before the result was recorded".to_owned()
            }
            Self::TooLarge { what, bytes, bytes_max } => {
                format!("{what} has {bytes} bytes; the limit is {bytes_max}")
            }
            Self::Closed => "closed".to_owned(),
        }
    }

    /// True if the ledger may nevertheless write what failed, now or later.
    #[must_use]
    pub const fn may_be_written(&self) -> bool {
        matches!(
            self,
            Self::File { .. } | Self::Stalled { .. } | Self::Unreachable { .. } | Self::Slow { .. }
        )
    }

    /// Advice for the operator, if there is any.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::InUse { .. } => {
                Some("give each worker its own ledger.path, or set ledger.kind = \"redis\" for all of them")
            }
            Self::Damaged { .. } => Some(
                "restore a copy, or move the file away to start with an empty ledger; an empty ledger does not know earlier \
                 sessions, so repeated events are processed again",
            ),
            Self::Full { .. } => Some("free some space, writes resume automatically"),
            Self::File { .. } => Some("check ledger.path, the owner of the file and the disk"),
            Self::Stalled { .. } => Some("check the volume of ledger.path, writes resume automatically"),
            Self::Unreachable { .. } => {
                Some("check ledger.url (or ledger.url_file) and that Redis is running")
            }
            Self::Slow { .. } => Some("check the load of Redis and the network"),
            Self::Refused { .. } => Some("check the log, the memory and the access rules of Redis"),
            Self::Url { .. } | Self::UrlFile { .. } | Self::Lost | Self::TooLarge { .. } | Self::Closed => {
                None
            }
        }
    }
}

impl fmt::Display for LedgerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = match self {
            Self::InUse { .. }
            | Self::Damaged { .. }
            | Self::Full { .. }
            | Self::File { .. }
            | Self::Stalled { .. } => "ledger ",
            // These name the setting.
            Self::Url { .. } | Self::UrlFile { .. } => "",
            _ => "ledger: ",
        };
        write!(f, "{prefix}{}", self.problem())?;
        self.hint().map_or(Ok(()), |hint| write!(f, "; hint: {hint}"))
    }
}

impl std::error::Error for LedgerError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_prefix_problem_and_hint() {
        let path = PathBuf::from("/data/ledger");
        for (error, expected) in [
            (
                LedgerError::Full { path: path.clone() },
                "ledger /data/ledger: disk full; hint: free some space, writes resume automatically",
            ),
            (
                LedgerError::Stalled { path: path.clone(), limit: Duration::from_secs(5) },
                "ledger /data/ledger: no response from the disk within 5 s; hint: check the volume of ledger.path, writes resume \
                 automatically",
            ),
            (
                LedgerError::UrlFile { path, reason: "empty".to_owned() },
                "ledger.url_file /data/ledger: empty",
            ),
            (
                LedgerError::Slow { limit: Duration::from_secs(2) },
                "ledger: no response from Redis within 2 s; hint: check the load of Redis and the network",
            ),
            (LedgerError::Closed, "ledger: closed"),
        ] {
            assert_eq!(error.to_string(), expected);
        }
    }
}
