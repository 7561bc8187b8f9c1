//! What was already done, consulted before every outside effect, so that an event that comes again gets the same
//! result, and an effect that happened does not happen again.
//!
//! One who is about to act [claims](Ledger::claim) a key. One claimant at a time gets a [`Lease`], acts, and records
//! the result; the others wait, and get that result. Where an effect's outcome can become unknown (a request that
//! was sent, no answer read), its owner first writes a note: whoever comes after a crash sees it, and decides. Of an
//! effect of several calls, it notes what each brought: who comes next goes on from there. Links are noted when they
//! are made, and recorded when the broker has confirmed their messages.
//!
//! # Kinds
//! - *File*: an embedded store in one file (`redb`), for one process. What was said to be recorded survives a crash
//!   and a power cut: each commit is synchronised to the disk, and waiting writes share one. Missing folders are
//!   created with mode 0700 and the file with 0600. **It holds links as they are**: its volume is as sensitive as
//!   the queues.
//! - *Redis*: for several replicas. A claim is a lease of 30 s that is renewed while it is held, so a killed worker's
//!   claim ends by itself. As durable as that Redis is set up to be (`appendonly yes`, `appendfsync`).
//! - *Memory*: lives as long as the process.
//!
//! # Ends
//! Each entry has a time from which it counts as absent. Expired entries are removed in bounded batches: by the
//! writes that come (file, memory), once a second where none come (file), by Redis itself.

mod claims;
mod entry;
mod error;
mod file;
mod lease;
mod memory;
mod redis;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;

pub use error::LedgerError;
pub use file::look::Look;
pub use lease::Lease;

use crate::clock;
#[cfg(test)]
use crate::simulation::store as simulated;
use claims::{KeyClaims, Waited};
pub(crate) use entry::Entry;
use entry::{EntryState, Fingerprint, Found};
pub(crate) use file::Change;
use file::File;
use lease::Holding;
use memory::Memory;
use redis::Redis;
#[cfg(test)]
pub(crate) use {claims::KeyGuard, memory::Memory as Entries};

/// Largest key, in bytes.
pub const KEY_BYTES_MAX: usize = 300;
/// Largest note or result, in bytes: a few times the largest event, which each of its links echoes in part.
pub const VALUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Which ledger, as configured.
#[derive(Clone, Debug)]
pub enum LedgerKind {
    /// In this process only.
    Memory,
    /// In a file, which this process alone may have open.
    File {
        /// Where; created where it is missing.
        path: PathBuf,
    },
    /// In a Redis, shared by all workers with the same prefix.
    Redis {
        /// Where it is.
        url: RedisUrl,
        /// Begins every key.
        prefix: String,
        /// CAs that are trusted beside the system's.
        ca_file: Option<PathBuf>,
    },
}

/// Where a Redis is: `redis://` or `rediss://`, with its password where it has one.
#[derive(Clone, Debug)]
pub enum RedisUrl {
    /// As given.
    Given(SecretString),
    /// In a file, which is read at each connection, so that a password can change.
    File {
        /// Which file.
        path: PathBuf,
        /// Whether it may name a host elsewhere without TLS.
        allow_insecure: bool,
    },
}

impl<T: Into<SecretString>> From<T> for RedisUrl {
    fn from(url: T) -> Self {
        Self::Given(url.into())
    }
}

/// Opened as configured; cheap to clone.
#[derive(Clone, Debug)]
pub struct Ledger {
    claims: Arc<KeyClaims>,
    store: LedgerStore,
}

#[derive(Clone, Debug)]
enum LedgerStore {
    Memory(Arc<Memory>),
    File(Arc<File>),
    Redis(Arc<Redis>),
    #[cfg(test)]
    Simulated(Arc<simulated::SimulatedStore>),
}

/// What a claimant gets.
pub enum Claim {
    /// Nothing is recorded: act now.
    Mine(Lease),
    /// It was done, and this was recorded.
    Recorded(Vec<u8>),
    /// The key is known, or being acted on, with another fingerprint.
    Conflict,
    /// Somebody else still acts.
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
    /// Opens a ledger. Redis is connected to when it is first needed, and again whenever the connection is lost:
    /// [`Ledger::ping`] tells whether it is there.
    ///
    /// # Errors
    /// [`LedgerError`] where the file is in use, damaged (no new one is made in its place) or out of reach, or the URL is
    /// not one of Redis.
    pub async fn open(kind: LedgerKind) -> Result<Self, LedgerError> {
        let store = match kind {
            LedgerKind::Memory => LedgerStore::Memory(Arc::default()),
            LedgerKind::File { path } => LedgerStore::File(File::open(path).await?),
            LedgerKind::Redis { url, prefix, ca_file } => {
                LedgerStore::Redis(Arc::new(Redis::new(url, prefix, ca_file)?))
            }
        };
        Ok(Self { claims: Arc::default(), store })
    }

    /// A ledger over the simulation's store.
    #[cfg(test)]
    pub(crate) fn simulated(store: Arc<simulated::SimulatedStore>) -> Self {
        Self { claims: Arc::default(), store: LedgerStore::Simulated(store) }
    }

    /// Claims `key` for a message whose body has `fingerprint`. Waits while somebody else (in this process, or in
    /// another one on the same Redis) holds the claim, `patience` at most. May be cancelled at any point.
    ///
    /// # Errors
    /// [`LedgerError`] where the ledger can't be read, or `key` has more than [`KEY_BYTES_MAX`] bytes.
    pub async fn claim(
        &self,
        key: &str,
        fingerprint: Fingerprint,
        patience: Duration,
    ) -> Result<Claim, LedgerError> {
        check("a key", key.len(), KEY_BYTES_MAX)?;
        let since = tokio::time::Instant::now();
        let turn = match self.claims.turn(key, &fingerprint, patience).await {
            Waited::Turn(turn) => turn,
            Waited::Conflict => return Ok(Claim::Conflict),
            Waited::Busy => return Ok(Claim::Busy),
        };
        let (found, holding) = match &self.store {
            LedgerStore::Memory(memory) => {
                let found = Found::of(memory.get(key), &fingerprint, clock::now());
                (found, Holding::Memory(memory.clone(), turn))
            }
            LedgerStore::File(file) => {
                let found = Found::of(file.get(key).await?, &fingerprint, clock::now());
                (found, Holding::File(file.clone(), Arc::new(turn)))
            }
            #[cfg(test)]
            LedgerStore::Simulated(store) => {
                let found = Found::of(store.get(key).await?, &fingerprint, clock::now());
                (found, Holding::Simulated(store.clone(), Arc::new(turn)))
            }
            LedgerStore::Redis(redis) => {
                let left = patience.saturating_sub(since.elapsed());
                let (found, held) = redis.claim(key, fingerprint, left, turn).await?;
                (found, Holding::Redis(Box::new(held)))
            }
        };
        Ok(match found {
            Found::Free(note) => Claim::Mine(Lease::new(key, fingerprint, note, holding)),
            Found::Recorded(result) => Claim::Recorded(result),
            Found::Conflict => Claim::Conflict,
            Found::Busy => Claim::Busy,
        })
    }

    /// Keeps for `wait` that something is to rest that `key` names, unless it rests for longer already. On Redis for all
    /// workers, in a file for those that come after this one.
    ///
    /// # Errors
    /// [`LedgerError`] if it can't be written.
    pub async fn rest(&self, key: &str, wait: Duration) -> Result<(), LedgerError> {
        let until = after(clock::now(), wait);
        let entry = Entry { fingerprint: [0; 32], state: EntryState::Recorded, bytes: Vec::new(), until };
        let shorter = |known: Option<Entry>| known.is_none_or(|known| known.until < until);
        match &self.store {
            LedgerStore::Redis(redis) => redis.rest(key, wait).await,
            LedgerStore::Memory(memory) => {
                if shorter(memory.get(key)) {
                    memory.put(key, entry);
                }
                Ok(())
            }
            LedgerStore::File(file) if shorter(file.get(key).await?) => {
                file.write(key.to_owned(), Change::Put(entry), None).await
            }
            #[cfg(test)]
            LedgerStore::Simulated(store) if shorter(store.get(key).await?) => {
                store.write(key, Change::Put(entry), None).await
            }
            _ => Ok(()),
        }
    }

    /// How long what `key` names is still to rest.
    ///
    /// # Errors
    /// [`LedgerError`] if it can't be read.
    pub async fn rests(&self, key: &str) -> Result<Option<Duration>, LedgerError> {
        let entry = match &self.store {
            LedgerStore::Redis(redis) => return redis.rests(key).await,
            LedgerStore::Memory(memory) => memory.get(key),
            LedgerStore::File(file) => file.get(key).await?,
            #[cfg(test)]
            LedgerStore::Simulated(store) => store.get(key).await?,
        };
        let left = entry.map(|entry| entry.until.duration_since(clock::now()));
        Ok(left.and_then(|left| Duration::try_from(left).ok()).filter(|left| !left.is_zero()))
    }

    /// Whether other processes write to it, too.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        matches!(self.store, LedgerStore::Redis(_))
    }

    /// Whether the ledger is usable, for readiness and `check`.
    ///
    /// # Errors
    /// [`LedgerError`] says why it is not.
    pub async fn ping(&self) -> Result<(), LedgerError> {
        match &self.store {
            LedgerStore::Memory(_) => Ok(()),
            LedgerStore::File(file) => file.len().await.map(drop),
            LedgerStore::Redis(redis) => redis.ping().await,
            #[cfg(test)]
            LedgerStore::Simulated(_) => Ok(()),
        }
    }

    /// Looks at the file at `path` from outside, whether or not a worker has it open.
    ///
    /// # Errors
    /// [`LedgerError`] where a worker could not open it or make it.
    pub async fn look(path: PathBuf) -> Result<Look, LedgerError> {
        let looked = tokio::task::spawn_blocking(move || file::look::look(&path)).await;
        looked.unwrap_or(Err(LedgerError::Closed))
    }

    /// What Redis says of itself, its `INFO`; `None` for the other kinds.
    ///
    /// # Errors
    /// [`LedgerError`] where it does not say.
    pub async fn info(&self) -> Result<Option<String>, LedgerError> {
        match &self.store {
            LedgerStore::Redis(redis) => redis.info().await.map(Some),
            _ => Ok(None),
        }
    }

    /// How many entries there are, for a gauge; expired ones count until they are removed. `None` for Redis, which
    /// could tell only by visiting each key.
    ///
    /// # Errors
    /// [`LedgerError`] where the file can't be read.
    pub async fn len(&self) -> Result<Option<u64>, LedgerError> {
        match &self.store {
            LedgerStore::Memory(memory) => Ok(Some(memory.len())),
            LedgerStore::File(file) => file.len().await.map(Some),
            LedgerStore::Redis(_) => Ok(None),
            #[cfg(test)]
            LedgerStore::Simulated(_) => Ok(None),
        }
    }

    /// How many commits were synchronised to the disk since the ledger was opened. Many fewer than records under
    /// load, as waiting writes share one. 0 for the other kinds.
    #[must_use]
    pub fn commits(&self) -> u64 {
        match &self.store {
            LedgerStore::File(file) => file.commits(),
            LedgerStore::Memory(_) | LedgerStore::Redis(_) => 0,
            #[cfg(test)]
            LedgerStore::Simulated(_) => 0,
        }
    }

    /// Finishes the writes that were begun and closes the file; whatever is asked of it afterwards is
    /// [`LedgerError::Closed`]. Closing twice does no harm, nor does dropping without closing.
    pub async fn close(&self) {
        if let LedgerStore::File(file) = &self.store {
            file.close().await;
        }
    }
}

fn after(now: Timestamp, wait: Duration) -> Timestamp {
    SignedDuration::try_from(wait).ok().and_then(|wait| now.checked_add(wait).ok()).unwrap_or(Timestamp::MAX)
}

fn check(what: &'static str, bytes: usize, bytes_max: usize) -> Result<(), LedgerError> {
    if bytes > bytes_max { Err(LedgerError::TooLarge { what, bytes, bytes_max }) } else { Ok(()) }
}
