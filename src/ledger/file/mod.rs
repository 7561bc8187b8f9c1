//! A ledger in a file. Reads see the last commit and never wait for a write. All writes go through one thread, which
//! commits waiting writes together.

mod database;
pub(super) mod inspect;
mod writer;

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ::redb::Database;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::spawn_blocking,
    time::interval,
};

use super::{LedgerError, claims::KeyGuard, entry::Entry};
use crate::fault;
use writer::{Write, WriteJob, Writer};

/// Capacity of the write queue; further writes wait until there is space.
const QUEUE_MAX: usize = 1024;
/// Interval of the removal of expired entries, if no write removes them.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// A change of a key.
pub(crate) enum Change {
    Put(Entry),
    Remove,
}

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
    pub(super) async fn open(path: PathBuf) -> Result<Arc<Self>, LedgerError> {
        let (first, again) = (path.clone(), path.clone());
        let open = move || {
            fault::point("ledger", "opening");
            database::open(&first, true)
        };
        let opened = spawn_blocking(open).await;
        let database = opened.unwrap_or(Err(LedgerError::Closed))?;
        Self::start(path, database, Box::new(move || database::open(&again, false)))
    }

    fn start(path: PathBuf, database: Database, opener: Opener) -> Result<Arc<Self>, LedgerError> {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let (ends, finished) = watch::channel(false);
        let database = RwLock::new(Ok(Arc::new(database)));
        let shared =
            Arc::new(SharedFile { path: path.clone(), opener, database, commits: AtomicU64::new(0) });
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

    pub(super) async fn get(&self, key: &str) -> Result<Option<Entry>, LedgerError> {
        let key = key.to_owned();
        self.read(move |database| database::get(database, &key)).await
    }

    pub(super) async fn len(&self) -> Result<u64, LedgerError> {
        self.read(database::len).await
    }

    pub(super) fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    /// Changes the entry of `key` and returns when the change is on the disk. `guard` is held until then, even if the
    /// caller is cancelled.
    pub(super) async fn write(
        &self,
        key: String,
        change: Change,
        guard: Option<Arc<KeyGuard>>,
    ) -> Result<(), LedgerError> {
        let jobs = self.jobs().ok_or(LedgerError::Closed)?;
        let (done, answer) = oneshot::channel();
        jobs.send(WriteJob::Write(Write { key, change, guard, done }))
            .await
            .map_err(|_| LedgerError::Closed)?;
        drop(jobs);
        answer.await.unwrap_or(Err(LedgerError::Closed))
    }

    pub(super) async fn close(&self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        // An error means that the writer thread has ended, which is the goal.
        _ = self.finished.clone().wait_for(|finished| *finished).await;
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

impl SharedFile {
    fn database(&self) -> Result<Arc<Database>, LedgerError> {
        self.database.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_database(&self, database: Result<Arc<Database>, LedgerError>) {
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = database;
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
