//! A ledger in a file. Reads see the last commit and never wait for a write. All writes go through one thread, which
//! commits waiting writes together. The keys are also kept in memory, so that a claim of a new key reads nothing.

mod database;
pub(super) mod inspect;
mod keys;
mod writer;

use std::{
    fmt,
    future::ready,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ::redb::Database;
use futures_util::future::BoxFuture;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::spawn_blocking,
    time::interval,
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

/// An open file.
pub(super) struct File {
    shared: Arc<SharedFile>,
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
        Self::start(path, database, keys, Box::new(move || database::open(&again, false)), clock)
    }

    fn start(
        path: PathBuf,
        database: Database,
        keys: KnownKeys,
        opener: Opener,
        clock: Clock,
    ) -> Result<Arc<Self>, LedgerError> {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let (ends, finished) = watch::channel(false);
        let database = RwLock::new(Ok(Arc::new(database)));
        let commits = AtomicU64::new(0);
        let shared = Arc::new(SharedFile { path: path.clone(), opener, database, commits, clock, keys });
        let writer = Writer::new(receiver, shared.clone());
        let run = move || {
            writer.run();
            ends.send_replace(true);
        };
        std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(run)
            .map_err(|error| LedgerError::File { path, reason: error.to_string() })?;
        let file = Arc::new(Self { shared, jobs: Mutex::new(Some(sender)), finished });
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
        let shared = self.shared.clone();
        let answer = spawn_blocking(move || {
            let database = shared.database()?;
            database::guard(&shared.path, || read(&database))
        });
        answer.await.unwrap_or(Err(LedgerError::Closed))
    }
}

impl EntryStore for File {
    fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, LedgerError>> {
        if self.shared.keys.is_absent(key) {
            // A file that cannot be used is reported, also if the entry would not be in it.
            let absent = self.shared.database().map(|_| None);
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
        Box::pin(async move {
            let jobs = self.jobs().ok_or(LedgerError::Closed)?;
            let (done, answer) = oneshot::channel();
            jobs.send(WriteJob::Write(Write { key: key.to_owned(), change, guard, done }))
                .await
                .map_err(|_| LedgerError::Closed)?;
            drop(jobs);
            answer.await.unwrap_or(Err(LedgerError::Closed))
        })
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
