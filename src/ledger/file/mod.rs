//! A ledger in a file. Reads see the last commit and wait for nobody; all writes go through one thread, which
//! commits those that wait together.

mod database;
pub(super) mod look;
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

/// How many writes may wait; more wait for a place.
const QUEUE_MAX: usize = 1024;
/// How often expired entries are looked for where no write does it.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What becomes of a key.
pub(crate) enum Change {
    Put(Entry),
    Remove,
}

/// An open file.
pub(super) struct File {
    shared: Arc<SharedFile>,
    /// `None` once it is closed.
    jobs: Mutex<Option<mpsc::Sender<WriteJob>>>,
    /// Whether the writer is through with everything.
    finished: watch::Receiver<bool>,
}

/// What readers and the writer share.
struct SharedFile {
    path: PathBuf,
    opener: Opener,
    /// The database, or why there is none. After an I/O error it has to be opened anew, which the writer does.
    database: RwLock<Result<Arc<Database>, LedgerError>>,
    commits: AtomicU64,
}

/// Opens the database again, which must be there.
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

    /// Changes what is kept for `key`. Returns once that is on the disk; `turn` does not end before, whether or not
    /// somebody still waits for this.
    pub(super) async fn write(
        &self,
        key: String,
        change: Change,
        turn: Option<Arc<KeyGuard>>,
    ) -> Result<(), LedgerError> {
        let jobs = self.jobs().ok_or(LedgerError::Closed)?;
        let (done, answer) = oneshot::channel();
        jobs.send(WriteJob::Write(Write { key, change, turn, done }))
            .await
            .map_err(|_| LedgerError::Closed)?;
        drop(jobs);
        answer.await.unwrap_or(Err(LedgerError::Closed))
    }

    pub(super) async fn close(&self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        // Without a sender the writer is gone, which is as good.
        _ = self.finished.clone().wait_for(|finished| *finished).await;
    }

    fn jobs(&self) -> Option<mpsc::Sender<WriteJob>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads on a thread where waiting for the disk holds nobody up.
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

/// Has the writer look for expired entries, as long as there is a file. A full queue needs no reminder: each write
/// sweeps, too.
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
