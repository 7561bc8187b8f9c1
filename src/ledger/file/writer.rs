//! The writer thread. Writes that arrive during a commit wait, and the next commit contains all of them.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use ::redb::Database;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::{SharedFile, database};
use crate::{
    fault,
    ledger::{LedgerError, claims::KeyGuard, entry::Change},
};

/// Maximum number of writes in one commit.
const BATCH_MAX: usize = 512;
/// Size in bytes from which a commit accepts no further write.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Time for which a commit waits for further writes if the commit before had at least [`BUSY`] of them. A commit costs much
/// more than a further write in it.
const LINGER: Duration = Duration::from_millis(1);
/// See [`LINGER`].
const BUSY: usize = 4;
/// Maximum number of expired entries that one commit removes if there are no writes.
const SWEEP_MAX: usize = 1024;

/// A request to the writer.
pub(super) enum WriteJob {
    Write(Write),
    Sweep,
}

/// A change, and the channel for its result.
pub(super) struct Write {
    pub(super) key: String,
    pub(super) change: Change,
    /// Held until the change is made; `None` in tests and for rate limits.
    pub(super) guard: Option<Arc<KeyGuard>>,
    pub(super) done: oneshot::Sender<Result<(), LedgerError>>,
}

pub(super) struct Writer {
    jobs: mpsc::Receiver<WriteJob>,
    shared: Arc<SharedFile>,
}

impl Writer {
    pub(super) const fn new(jobs: mpsc::Receiver<WriteJob>, shared: Arc<SharedFile>) -> Self {
        Self { jobs, shared }
    }

    /// Writes until all senders are dropped, then closes the database.
    pub(super) fn run(mut self) {
        let mut busy = false;
        while let Some(job) = self.jobs.blocking_recv() {
            if busy {
                std::thread::sleep(LINGER);
            }
            let writes = self.gather(job);
            busy = writes.len() >= BUSY;
            *self.shared.busy_since() = Some(Instant::now());
            if writes.is_empty() {
                self.sweep();
            } else {
                self.write(writes);
            }
            *self.shared.busy_since() = None;
        }
        self.shared.set_database(Err(LedgerError::Closed));
    }

    fn write(&self, writes: Vec<Write>) {
        fault::point("ledger", "asked");
        let result = self.commit(&writes, sweep_max(writes.len()));
        fault::point("ledger", "written");
        for write in writes {
            // In this order: after the caller has its result, only its lease still holds the claim.
            drop(write.guard);
            _ = write.done.send(result.clone());
        }
    }

    /// Collects `first` and the other waiting writes, up to the limits of a commit.
    fn gather(&mut self, first: WriteJob) -> Vec<Write> {
        let (mut writes, mut bytes) = (Vec::new(), 0);
        let mut next = Some(first);
        while let Some(job) = next {
            if let WriteJob::Write(write) = job {
                bytes += match &write.change {
                    Change::Put(entry) => entry.bytes.len(),
                    Change::Remove => 0,
                };
                writes.push(write);
            }
            let room = writes.len() < BATCH_MAX && bytes < BATCH_BYTES;
            next = if room { self.jobs.try_recv().ok() } else { None };
        }
        writes
    }

    /// Removes expired entries until none is left or a job is waiting.
    fn sweep(&self) {
        loop {
            let expired = self.database().and_then(|database| {
                database::guard(&self.shared.path, || {
                    database::has_expired(&database, self.shared.clock.steady())
                })
            });
            match expired {
                Ok(true) if self.commit(&[], SWEEP_MAX).is_ok() && self.jobs.is_empty() => {
                    *self.shared.busy_since() = Some(Instant::now());
                }
                Ok(_) => return,
                Err(error) => return self.fail(error),
            }
        }
    }

    fn commit(&self, writes: &[Write], sweep_max: usize) -> Result<(), LedgerError> {
        let result = self.database().and_then(|database| {
            // A failed commit may be on the disk nevertheless, so keys are added before.
            let put = writes.iter().filter(|write| matches!(write.change, Change::Put(_)));
            self.shared.keys.add(put.map(|write| write.key.as_str()));
            database::guard(&self.shared.path, || {
                database::apply(&database, writes, self.shared.clock.steady(), sweep_max)
            })
        });
        let gone = result.inspect_err(|error| self.fail(error.clone()))?;
        self.shared.keys.remove(gone.iter().map(String::as_str));
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// The database. After a failure the database is opened again, as redb requires (`StorageError::PreviousIo`).
    fn database(&self) -> Result<Arc<Database>, LedgerError> {
        let failure = match self.shared.database() {
            Ok(database) => return Ok(database),
            Err(failure) => failure,
        };
        let database = (self.shared.opener)().map_err(|error| match error {
            // A reader of this process still holds the file.
            LedgerError::InUse { .. } => failure,
            error => error,
        })?;
        let database = Arc::new(database);
        self.shared.set_database(Ok(database.clone()));
        info!("ledger writes recovered");
        Ok(database)
    }

    fn fail(&self, error: LedgerError) {
        if self.shared.database().is_ok() {
            warn!(%error, "ledger unavailable; retrying");
        }
        self.shared.set_database(Err(error));
    }
}

/// Maximum number of expired entries that a commit of `writes` removes. More than it adds, so that the file stays
/// bounded under constant load.
const fn sweep_max(writes: usize) -> usize {
    64 + 2 * writes
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, RwLock, atomic::AtomicU64};

    use jiff::Timestamp;

    use super::*;
    use crate::{
        clock::Clock,
        ledger::entry::{Entry, EntryState},
        ledger::file::keys::KnownKeys,
    };

    const LATER: Timestamp = Timestamp::MAX;

    /// A writer with `jobs` in its queue.
    fn writer(
        jobs: impl IntoIterator<Item = WriteJob>,
        database: Result<Arc<Database>, LedgerError>,
    ) -> Writer {
        let (sender, receiver) = mpsc::channel(1024);
        jobs.into_iter().for_each(|job| sender.try_send(job).unwrap_or_else(|_| panic!("full")));
        let shared = SharedFile {
            path: "ledger".into(),
            opener: Box::new(|| Err(LedgerError::Closed)),
            database: RwLock::new(database),
            commits: AtomicU64::new(0),
            busy_since: Mutex::default(),
            limit: Duration::MAX,
            clock: Clock::system(),
            keys: KnownKeys::default(),
        };
        Writer::new(receiver, Arc::new(shared))
    }

    /// Number of writes in each commit, for these waiting `jobs`.
    fn batches(jobs: impl IntoIterator<Item = WriteJob>) -> Vec<usize> {
        let mut writer = writer(jobs, Err(LedgerError::Closed));
        let mut batches = Vec::new();
        while let Ok(job) = writer.jobs.try_recv() {
            batches.push(writer.gather(job).len());
        }
        batches
    }

    fn put(until: Timestamp, bytes: usize) -> WriteJob {
        let (state, bytes) = (EntryState::Recorded, vec![0; bytes]);
        write(Change::Put(Entry { fingerprint: [0; 32], state, bytes, until }))
    }

    fn write(change: Change) -> WriteJob {
        WriteJob::Write(Write { key: "k".to_owned(), change, guard: None, done: oneshot::channel().0 })
    }

    #[test]
    fn waiting_writes_share_a_commit_up_to_the_limits() {
        assert_eq!(batches([put(LATER, 1), WriteJob::Sweep, write(Change::Remove), put(LATER, 0)]), [3]);
        assert_eq!(batches([WriteJob::Sweep]), [0]);
        assert_eq!(batches((0..1000).map(|_| put(LATER, 1))), [512, 488]);
        let quarter = BATCH_BYTES / 4;
        assert_eq!(
            batches((0..6).map(|_| put(LATER, quarter))),
            [4, 2],
            "at most the bytes of the largest value"
        );
        assert_eq!(batches([put(LATER, 4 * quarter - 1), put(LATER, 4 * quarter), put(LATER, 0)]), [2, 1]);
        assert_eq!(BATCH_BYTES, crate::ledger::VALUE_BYTES_MAX);
    }

    /// Sweeps a file with 1100 expired entries while `jobs` wait. Returns the commits and the remaining entries.
    fn sweep(jobs: impl IntoIterator<Item = WriteJob>) -> (u64, u64) {
        let folder = tempfile::tempdir().unwrap();
        let database = database::open(&folder.path().join("ledger"), true).unwrap();
        let expired: Vec<_> = (0..1100)
            .filter_map(|key| match put(Timestamp::UNIX_EPOCH, 0) {
                WriteJob::Write(write) => Some(Write { key: format!("{key}"), ..write }),
                WriteJob::Sweep => None,
            })
            .collect();
        database::apply(&database, &expired, Timestamp::UNIX_EPOCH, 0).unwrap();
        let writer = writer(jobs, Ok(Arc::new(database)));
        writer.sweep();
        let left = database::len(&writer.database().unwrap()).unwrap();
        (writer.shared.commits.load(Ordering::Relaxed), left)
    }

    #[test]
    fn sweep_stops_when_nothing_is_left_or_a_job_waits() {
        assert_eq!(sweep([]), (2, 0));
        assert_eq!(sweep([WriteJob::Sweep]), (1, 76));
    }

    #[test]
    fn commit_removes_more_entries_than_it_adds() {
        assert_eq!([sweep_max(0), sweep_max(1), sweep_max(512)], [64, 66, 1088]);
    }
}
