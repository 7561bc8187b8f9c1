//! A ledger in a file. Reads see the last commit and never wait for a write. All writes go through one thread, which
//! commits waiting writes together. The keys are also kept in memory, so that a claim of a new key reads nothing.
//!
//! A disk may hang instead of failing. Each operation therefore has a time limit, and while one commit takes longer than that, all others
//! fail at once. A write whose caller has given up stays with the writer and keeps its claim, so it counts when the disk responds again.

mod database;
pub(super) mod inspect;
mod keys;
mod writer;

use std::{
    fmt,
    future::{Future, ready},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ::redb::Database;
use futures_util::future::BoxFuture;
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::spawn_blocking,
    time::{interval, timeout},
};

use super::{
    LedgerError,
    claims::KeyGuard,
    entry::{Change, Entry},
    entry_store::EntryStore,
};
use crate::{clock::Clock, fault};
use keys::KnownKeys;
use writer::{Write, WriteJob, Writer};

/// Capacity of the write queue; further writes wait until there is space.
const QUEUE_MAX: usize = 1024;
/// Interval of the removal of expired entries, if no write removes them.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Time limit for each operation.
const LIMIT: Duration = Duration::from_secs(5);
/// Maximum number of reads at the same time. Reads of a disk that hangs must not use up the threads that other parts need.
const READS_MAX: usize = 16;

/// An open file.
pub(super) struct File {
    shared: Arc<SharedFile>,
    reads: Arc<Semaphore>,
    /// `None` after the file is closed.
    jobs: Mutex<Option<mpsc::Sender<WriteJob>>>,
    /// True when the writer thread has ended.
    finished: watch::Receiver<bool>,
}

/// State that readers and the writer share.
struct SharedFile {
    path: PathBuf,
    opener: Opener,
    /// The database, or the error that made it unusable. After an I/O error, the writer opens the database again.
    database: RwLock<Result<Arc<Database>, LedgerError>>,
    commits: AtomicU64,
    /// Time since which the writer has worked on its current job.
    busy_since: Mutex<Option<Instant>>,
    /// Time limit for each operation.
    limit: Duration,
    clock: Clock,
    keys: KnownKeys,
}

/// Opens the database again; the file must exist.
type Opener = Box<dyn Fn() -> Result<Database, LedgerError> + Send + Sync>;

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl File {
    /// Opens the file at `path`, or creates it.
    pub(super) async fn open(path: PathBuf, clock: Clock) -> Result<Arc<Self>, LedgerError> {
        let (first, again) = (path.clone(), path.clone());
        let open = move || {
            fault::point("ledger", "opening");
            let database = database::open(&first, true)?;
            let keys = KnownKeys::default();
            keys.read(&first, &database);
            Ok((database, keys))
        };
        let opened = spawn_blocking(open).await;
        let (database, keys) = opened.unwrap_or(Err(LedgerError::Closed))?;
        let reopen = Box::new(move || database::open(&again, false));
        let shared = SharedFile::new(path, database, keys, reopen, LIMIT, clock);
        Self::start(Arc::new(shared))
    }

    fn start(shared: Arc<SharedFile>) -> Result<Arc<Self>, LedgerError> {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let (ends, finished) = watch::channel(false);
        let writer = Writer::new(receiver, shared.clone());
        let run = move || {
            writer.run();
            ends.send_replace(true);
        };
        std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(run)
            .map_err(|error| LedgerError::File { path: shared.path.clone(), reason: error.to_string() })?;
        let (reads, jobs) = (Arc::new(Semaphore::new(READS_MAX)), Mutex::new(Some(sender)));
        let file = Arc::new(Self { shared, reads, jobs, finished });
        tokio::spawn(sweep(Arc::downgrade(&file)));
        Ok(file)
    }

    fn jobs(&self) -> Option<mpsc::Sender<WriteJob>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads on a blocking thread, so that a slow disk does not block the runtime.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, ::redb::Error> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (shared, reads) = (self.shared.clone(), self.reads.clone());
        let answer = async {
            let permit = reads.acquire_owned().await.map_err(|_| LedgerError::Closed)?;
            let answer = spawn_blocking(move || {
                // Held until the disk responds, also if the caller has given up.
                let _permit = permit;
                let database = shared.database()?;
                database::guard(&shared.path, || read(&database))
            });
            answer.await.unwrap_or(Err(LedgerError::Closed))
        };
        self.in_time(answer).await
    }

    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, LedgerError>>,
    ) -> Result<T, LedgerError> {
        self.shared.responds()?;
        // A write may wait for the current commit before its own.
        timeout(2 * self.shared.limit, answer).await.unwrap_or_else(|_| Err(self.shared.stalled()))
    }
}

impl EntryStore for File {
    fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, LedgerError>> {
        if self.shared.keys.is_absent(key) {
            // A file that cannot be used is reported, also if the entry would not be in it.
            let absent = self.shared.responds().and_then(|()| self.shared.database()).map(|_| None);
            return Box::pin(ready(absent));
        }
        let key = key.to_owned();
        Box::pin(self.read(move |database| database::get(database, &key)))
    }

    fn write<'a>(
        &'a self,
        key: &'a str,
        change: Change,
        guard: Option<Arc<KeyGuard>>,
    ) -> BoxFuture<'a, Result<(), LedgerError>> {
        Box::pin(self.in_time(async move {
            let jobs = self.jobs().ok_or(LedgerError::Closed)?;
            let (done, answer) = oneshot::channel();
            jobs.send(WriteJob::Write(Write { key: key.to_owned(), change, guard, done }))
                .await
                .map_err(|_| LedgerError::Closed)?;
            drop(jobs);
            answer.await.unwrap_or(Err(LedgerError::Closed))
        }))
    }

    fn count(&self) -> BoxFuture<'_, Result<Option<u64>, LedgerError>> {
        Box::pin(async move { self.read(database::len).await.map(Some) })
    }

    fn synchronised(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    fn finish(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
            // An error means that the writer thread has ended, which is the goal.
            _ = self.finished.clone().wait_for(|finished| *finished).await;
        })
    }
}

impl SharedFile {
    fn new(
        path: PathBuf,
        database: Database,
        keys: KnownKeys,
        opener: Opener,
        limit: Duration,
        clock: Clock,
    ) -> Self {
        let (database, busy_since) = (RwLock::new(Ok(Arc::new(database))), Mutex::default());
        Self { path, opener, database, commits: AtomicU64::new(0), busy_since, limit, clock, keys }
    }

    /// Fails if the writer's current job exceeds the time limit. Further jobs would only wait behind it.
    fn responds(&self) -> Result<(), LedgerError> {
        let since = *self.busy_since();
        if since.is_some_and(|since| since.elapsed() >= self.limit) { Err(self.stalled()) } else { Ok(()) }
    }

    fn stalled(&self) -> LedgerError {
        LedgerError::Stalled { path: self.path.clone(), limit: self.limit }
    }

    fn busy_since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.busy_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn database(&self) -> Result<Arc<Database>, LedgerError> {
        self.database.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_database(&self, database: Result<Arc<Database>, LedgerError>) {
        let mut current = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let last = std::mem::replace(&mut *current, database);
        drop(current);
        // Closing the file can take long, and readers must not wait for it.
        drop(last);
    }
}

/// Tells the writer regularly to remove expired entries, while the file is open. If the queue is full, this is not
/// needed: each write also removes expired entries.
async fn sweep(file: Weak<File>) {
    let mut tick = interval(SWEEP_EVERY);
    loop {
        tick.tick().await;
        let Some(jobs) = file.upgrade().and_then(|file| file.jobs()) else { return };
        _ = jobs.try_send(WriteJob::Sweep);
    }
}

#[cfg(test)]
mod tests;
