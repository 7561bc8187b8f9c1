//! Record of completed effects, read before every outside effect. A repeated event gets the same result, and no
//! effect happens twice.
//!
//! A caller [claims](Ledger::claim) a key before it acts. One claimant at a time gets a [`Lease`], acts and records
//! the result; the others wait for that result. If the outcome of an effect can become unknown (request sent, no
//! response read), the holder first writes a note. After a crash, the next claimant finds the note and decides. For
//! an effect of several calls, the holder notes the result of each call, and the next claimant continues from there.
//! Links are noted when they are made, and recorded when the broker has confirmed their messages.
//!
//! # Kinds
//! - *File*: an embedded store in one file (`redb`), for one process. A confirmed record survives a crash and a power
//!   cut: each commit is synchronised to the disk, and waiting writes share one commit. Missing folders are created
//!   with mode 0700, the file with 0600. **The file holds links in plain text**: its volume is as sensitive as the
//!   queues.
//! - *Redis*: for several replicas. A claim is a lease of 30 s that is renewed while it is held, so the claim of a
//!   killed worker expires. Durability depends on the Redis configuration (`appendonly yes`, `appendfsync`).
//! - *Memory*: lives as long as the process, and keeps the latest entries only.
//!
//! # Expiry
//! Each entry has a time from which it counts as absent. Expired entries are removed in bounded batches: by later
//! writes (file, memory), once a second if there are no writes (file), or by Redis itself.

pub mod claims;
pub mod entry;
pub mod entry_store;
mod error;
mod file;
mod lease;
pub mod memory;
mod redis;
mod store;
#[cfg(test)]
pub(crate) mod testing;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use secrecy::SecretString;

pub use error::LedgerError;
pub use file::inspect::FileStatus;
pub use lease::Lease;

use crate::clock::Clock;
use claims::{Acquisition, KeyClaims};
use entry::{Fingerprint, Found};
use entry_store::EntryStore;
use file::File;
use memory::Memory;
use redis::Redis;
use store::Store;

/// Maximum size of a key, in bytes.
pub const KEY_BYTES_MAX: usize = 300;
/// Maximum size of a note or a result, in bytes: a few times the largest event, because each link repeats parts of it.
pub const VALUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The configured kind of ledger.
#[derive(Clone, Debug)]
pub enum LedgerKind {
    /// Kept in this process only, and only the latest entries.
    Memory,
    /// Kept in a file that only this process may have open.
    File {
        /// Path of the file; created if missing.
        path: PathBuf,
    },
    /// Kept in Redis, shared by all workers with the same prefix.
    Redis {
        url: RedisUrl,
        /// Prefix of every key.
        prefix: String,
        /// CAs that are trusted in addition to the system's.
        ca_file: Option<PathBuf>,
    },
}

/// URL of Redis: `redis://` or `rediss://`, with the password if there is one.
#[derive(Clone, Debug)]
pub enum RedisUrl {
    /// The URL itself.
    Given(SecretString),
    /// A file with the URL. The file is read again at each connection, so the password can change.
    File {
        path: PathBuf,
        /// Allows a URL without TLS to hosts that are neither loopback nor cluster-local.
        allow_insecure: bool,
    },
}

impl<T: Into<SecretString>> From<T> for RedisUrl {
    fn from(url: T) -> Self {
        Self::Given(url.into())
    }
}

/// An open ledger; cheap to clone.
#[derive(Clone, Debug)]
pub struct Ledger {
    claims: Arc<KeyClaims>,
    store: Arc<dyn Store>,
    clock: Clock,
}

/// Result of a claim.
pub enum Claim {
    /// Nothing is recorded: act now.
    Mine(Lease),
    /// The effect was done, with this recorded result.
    Recorded(Vec<u8>),
    /// The key is recorded or claimed with another fingerprint.
    Conflict,
    /// Another claimant holds the lease.
    Busy,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mine(lease) => f.debug_tuple("Mine").field(lease).finish(),
            Self::Recorded(result) => write!(f, "Recorded({} bytes)", result.len()),
            Self::Conflict => f.write_str("Conflict"),
            Self::Busy => f.write_str("Busy"),
        }
    }
}

impl Ledger {
    /// Opens a ledger. The connection to Redis is made when it is first needed, and made again after it is lost;
    /// [`Ledger::ping`] reports if Redis can be reached.
    ///
    /// # Errors
    /// [`LedgerError`] if the file is in use, damaged or inaccessible, or if the URL is not a Redis URL. A damaged file is
    /// not replaced by a new one.
    pub async fn open(kind: LedgerKind) -> Result<Self, LedgerError> {
        let clock = Clock::system();
        Ok(match kind {
            LedgerKind::Memory => Self::over(Arc::new(Memory::new(clock.clone())), clock),
            LedgerKind::File { path } => Self::over(File::open(path, clock.clone()).await?, clock),
            LedgerKind::Redis { url, prefix, ca_file } => {
                Self::of(Arc::new(Redis::new(url, prefix, ca_file)?), clock)
            }
        })
    }

    /// A ledger whose entries are in `store` and expire by `clock`.
    #[must_use]
    pub fn over(store: Arc<impl EntryStore>, clock: Clock) -> Self {
        Self::of(store, clock)
    }

    fn of(store: Arc<dyn Store>, clock: Clock) -> Self {
        Self { claims: Arc::default(), store, clock }
    }

    /// The clock by which entries expire.
    pub(crate) const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Claims `key` for content with this `fingerprint`. While another claimant (in this process, or in another
    /// process on the same Redis) holds the claim, this call waits for at most `patience`. It can be cancelled at any
    /// point.
    ///
    /// # Errors
    /// [`LedgerError`] if the ledger cannot be read, or `key` has more than [`KEY_BYTES_MAX`] bytes.
    pub async fn claim(
        &self,
        key: &str,
        fingerprint: Fingerprint,
        patience: Duration,
    ) -> Result<Claim, LedgerError> {
        check("a key", key.len(), KEY_BYTES_MAX)?;
        let since = tokio::time::Instant::now();
        let guard = match self.claims.acquire(key, &fingerprint, patience).await {
            Acquisition::Acquired(guard) => Arc::new(guard),
            Acquisition::Conflict => return Ok(Claim::Conflict),
            Acquisition::Busy => return Ok(Claim::Busy),
        };
        let left = patience.saturating_sub(since.elapsed());
        let store = Arc::clone(&self.store);
        let (found, claim) = store.claim(key.to_owned(), fingerprint, left, guard.clone()).await?;
        Ok(match found {
            Found::Free(note) => {
                guard.start_acting(fingerprint);
                Claim::Mine(Lease::new(fingerprint, note, claim))
            }
            Found::Recorded(result) => Claim::Recorded(result),
            Found::Conflict => Claim::Conflict,
            Found::Busy => Claim::Busy,
        })
    }

    /// The note or the result of `key`, without a claim: whoever holds the claim may change it at any time.
    ///
    /// # Errors
    /// [`LedgerError`] if the ledger cannot be read, or `key` has more than [`KEY_BYTES_MAX`] bytes.
    pub async fn read(&self, key: &str) -> Result<Option<Vec<u8>>, LedgerError> {
        check("a key", key.len(), KEY_BYTES_MAX)?;
        self.store.read(key).await
    }

    /// Stores that `key` is rate limited for `wait`, unless a longer wait is stored. Redis shares the wait with all
    /// workers; a file keeps it for the next process.
    ///
    /// # Errors
    /// [`LedgerError`] if the wait cannot be written.
    pub async fn set_rate_limit(&self, key: &str, wait: Duration) -> Result<(), LedgerError> {
        self.store.set_rate_limit(key, wait).await
    }

    /// Remaining time for which `key` is rate limited.
    ///
    /// # Errors
    /// [`LedgerError`] if the entry cannot be read.
    pub async fn rate_limited_for(&self, key: &str) -> Result<Option<Duration>, LedgerError> {
        self.store.rate_limited_for(key).await
    }

    /// True if other processes can write to this ledger.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    /// Checks that the ledger is usable, for `check`.
    ///
    /// # Errors
    /// [`LedgerError`] if the ledger is not usable.
    pub async fn ping(&self) -> Result<(), LedgerError> {
        self.store.ping().await
    }

    /// Inspects the ledger file at `path` without changing it, even if a worker has the file open.
    ///
    /// # Errors
    /// [`LedgerError`] if a worker could not open or create the file.
    pub async fn inspect(path: PathBuf) -> Result<FileStatus, LedgerError> {
        let inspected = tokio::task::spawn_blocking(move || file::inspect::inspect(&path)).await;
        inspected.unwrap_or(Err(LedgerError::Closed))
    }

    /// Output of Redis's `INFO` command; `None` for the other kinds.
    ///
    /// # Errors
    /// [`LedgerError`] if the command fails.
    pub async fn info(&self) -> Result<Option<String>, LedgerError> {
        self.store.info().await
    }

    /// Number of entries, for a gauge; expired entries count until they are removed. `None` for Redis, which would have
    /// to scan every key.
    ///
    /// # Errors
    /// [`LedgerError`] if the file cannot be read.
    pub async fn len(&self) -> Result<Option<u64>, LedgerError> {
        self.store.len().await
    }

    /// Number of commits synchronised to the disk since the ledger was opened; 0 for memory and Redis. Under load there
    /// are far fewer commits than records, because waiting writes share one commit.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.store.commits()
    }

    /// Finishes pending writes and closes the file; later operations fail with [`LedgerError::Closed`]. Closing twice
    /// is harmless, and so is dropping the ledger without closing it.
    pub async fn close(&self) {
        self.store.close().await;
    }
}

fn check(what: &'static str, bytes: usize, bytes_max: usize) -> Result<(), LedgerError> {
    if bytes > bytes_max { Err(LedgerError::TooLarge { what, bytes, bytes_max }) } else { Ok(()) }
}
