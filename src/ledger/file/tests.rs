//! Tests that need access to internals, such as a disk that is full for some time.

use std::{
    io,
    path::Path,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
};

use jiff::Timestamp;
use redb::{Builder, StorageBackend, backends::FileBackend};

use super::*;
use crate::ledger::entry::EntryState;

/// A file on a disk that is full while `full` is set, and does not respond while `hangs` is set.
#[derive(Debug)]
struct FaultyDisk {
    file: FileBackend,
    faults: DiskFaults,
}

#[derive(Clone, Debug, Default)]
struct DiskFaults {
    full: Arc<AtomicBool>,
    hangs: Arc<AtomicBool>,
}

impl DiskFaults {
    /// Opens the file at `path` on such a disk.
    fn file(&self, path: &Path, limit: Duration) -> Arc<File> {
        drop(database::open(path, true).unwrap());
        let opener: Opener = {
            let (path, faults) = (path.to_owned(), self.clone());
            Box::new(move || {
                let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
                let disk = FaultyDisk { file: FileBackend::new(file).unwrap(), faults: faults.clone() };
                database::guard(&path, || Ok(Builder::new().create_with_backend(disk)?))
            })
        };
        let (database, keys) = (opener().unwrap(), KnownKeys::default());
        keys.read(path, &database);
        let shared = SharedFile::new(path.to_owned(), database, keys, opener, limit, Clock::system());
        File::start(Arc::new(shared)).unwrap()
    }
}

impl FaultyDisk {
    fn check_space(&self) -> io::Result<()> {
        while self.faults.hangs.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.faults.full.load(SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for FaultyDisk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_space().and_then(|()| self.file.set_len(len))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.check_space().and_then(|()| self.file.sync_data())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_space().and_then(|()| self.file.write(offset, data))
    }
}

fn entry(byte: u8) -> Change {
    let until = Timestamp::from_second(Timestamp::now().as_second() + 3600).unwrap();
    Change::Put(Entry { fingerprint: [0; 32], state: EntryState::Recorded, bytes: vec![byte], until })
}

#[tokio::test]
async fn full_disk_that_has_space_again_recovers_without_loss() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let faults = DiskFaults::default();
    let full = Arc::clone(&faults.full);
    let file = faults.file(&path, LIMIT);
    file.write("before", entry(1), None).await.unwrap();
    full.store(true, SeqCst);
    for _ in 0..2 {
        let refused = file.write("while", entry(2), None).await.unwrap_err();
        assert_eq!(refused, LedgerError::Full { path: path.clone() });
        assert_eq!(file.count().await.unwrap_err(), LedgerError::Full { path: path.clone() });
    }
    full.store(false, SeqCst);
    file.write("after", entry(3), None).await.unwrap();
    assert_eq!(file.get("before").await.unwrap().unwrap().bytes, [1]);
    assert_eq!(file.get("after").await.unwrap().unwrap().bytes, [3]);
    file.finish().await;
    assert_eq!(file.get("after").await, Err(LedgerError::Closed));
}

/// The volume stalls inside a commit: nothing fails, and nothing returns.
#[tokio::test]
async fn disk_that_hangs_is_an_error_until_it_responds_and_late_writes_count() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let (faults, limit) = (DiskFaults::default(), Duration::from_secs(1));
    let file = faults.file(&path, limit);
    file.write("before", entry(1), None).await.unwrap();
    let stalled = LedgerError::Stalled { path, limit };
    faults.hangs.store(true, SeqCst);
    for (key, byte) in [("late", 2), ("later", 3)] {
        assert_eq!(file.write(key, entry(byte), None).await, Err(stalled.clone()));
    }
    assert_eq!(file.get("unknown").await, Err(stalled.clone()), "no claim of a new key without the disk");
    assert_eq!(file.get("before").await, Err(stalled));
    faults.hangs.store(false, SeqCst);
    while file.write("after", entry(4), None).await.is_err() {
        tokio::task::yield_now().await;
    }
    for (key, byte) in [("before", 1), ("late", 2), ("after", 4)] {
        assert_eq!(file.get(key).await.unwrap().unwrap().bytes, [byte], "{key}");
    }
}

#[test]
fn expired_entries_are_removed_up_to_the_given_number() {
    let folder = tempfile::tempdir().unwrap();
    let database = database::open(&folder.path().join("ledger"), true).unwrap();
    let at = |ms| Timestamp::from_millisecond(ms).unwrap();
    let writes = [("a", 1000), ("b", 1000), ("c", 1001)].map(|(key, until)| {
        let change = Change::Put(Entry {
            fingerprint: [7; 32],
            state: EntryState::Noted,
            bytes: key.into(),
            until: at(until),
        });
        Write { key: key.to_owned(), change, guard: None, done: oneshot::channel().0 }
    });
    database::apply(&database, &writes, at(999), 10).unwrap();
    let expired = [999, 1000].map(|ms| database::has_expired(&database, at(ms)).unwrap());
    assert_eq!(expired, [false, true]);
    let left = [(999, 10), (1000, 1), (1000, 10), (1001, 10)].map(|(now, sweep_max)| {
        database::apply(&database, &[], at(now), sweep_max).unwrap();
        database::len(&database).unwrap()
    });
    assert_eq!(left, [3, 2, 1, 0]);
}

#[test]
fn file_that_disappeared_is_not_created_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    assert!(matches!(database::open(&path, false), Err(LedgerError::File { .. })));
    assert!(!path.exists());
}

#[test]
fn file_is_checked_completely_only_at_the_first_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let database = database::open(&path, true).unwrap();
    let bytes = b"a result that occurs nowhere else in the file";
    let entry = Entry {
        fingerprint: [7; 32],
        state: EntryState::Recorded,
        bytes: bytes.into(),
        until: Timestamp::MAX,
    };
    let write =
        Write { key: "k".to_owned(), change: Change::Put(entry), guard: None, done: oneshot::channel().0 };
    database::apply(&database, &[write], Timestamp::UNIX_EPOCH, 0).unwrap();
    drop(database);
    let mut file = std::fs::read(&path).unwrap();
    let places: Vec<_> = (0..file.len()).filter(|at| file[*at..].starts_with(bytes)).collect();
    assert!(!places.is_empty());
    for place in places {
        file[place] ^= 0xFF;
    }
    std::fs::write(&path, file).unwrap();
    drop(database::open(&path, false).unwrap());
    let checked = database::open(&path, true);
    assert!(matches!(checked, Err(LedgerError::Damaged { .. })), "{checked:?}");
}

#[test]
fn inspection_of_a_folder_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let inspected = inspect::inspect(folder.path());
    assert!(matches!(inspected, Err(LedgerError::File { .. })), "{inspected:?}");
}

#[test]
fn io_errors_are_mapped_to_ledger_errors() {
    let path = Path::new("ledger");
    let mapped = |kind: io::ErrorKind| {
        let error = || -> Result<(), ::redb::Error> { Err(::redb::Error::Io(kind.into())) };
        database::guard(path, error).unwrap_err()
    };
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
        assert_eq!(mapped(kind), LedgerError::Full { path: path.to_owned() });
    }
    for kind in [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof] {
        assert!(matches!(mapped(kind), LedgerError::Damaged { .. }), "{kind}");
    }
    assert!(matches!(mapped(io::ErrorKind::PermissionDenied), LedgerError::File { .. }));
}
