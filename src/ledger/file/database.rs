//! Tables of the ledger file: entries by key, and keys by expiry time.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use jiff::Timestamp;
use redb::{
    Builder, Database, Error, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
};
use tracing::warn;

use super::writer::Write;
use crate::ledger::{
    LedgerError,
    entry::{Change, Entry, EntryState},
};

/// Expiry (milliseconds since the epoch), true for a result or false for a note, fingerprint, bytes.
type LedgerRow = (i64, bool, &'static [u8; 32], &'static [u8]);

pub(super) const ENTRIES: TableDefinition<'_, &str, LedgerRow> = TableDefinition::new("entries.1");
const ENDS: TableDefinition<'_, (i64, &str), ()> = TableDefinition::new("ends.1");
/// Page cache of the database, in bytes. The operating system also caches the file.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// Opens the database at `path`, for the `first` time in this process or again after an I/O error. The first time, a
/// missing file is created and the whole file is checked. After an I/O error there is no full check: it would read a
/// large file at each attempt while the disk fails, and redb repairs an unfinished commit itself.
pub(super) fn open(path: &Path, first: bool) -> Result<Database, LedgerError> {
    let file = open_file(path, first).map_err(|error| io_error(path, &error))?;
    guard(path, || {
        let mut database = Builder::new().set_cache_size(CACHE_BYTES).create_file(file)?;
        // redb verifies its checksums only after a crash; without this check, a damaged page would be found later.
        if first && !database.check_integrity()? {
            warn!(
                path = %path.display(),
                "ledger file was damaged and has been repaired; the latest records may be missing"
            );
        }
        let transaction = database.begin_write()?;
        transaction.open_table(ENTRIES)?;
        transaction.open_table(ENDS)?;
        transaction.commit()?;
        Ok(database)
    })
}

fn open_file(path: &Path, create: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound && create => {}
        opened => return opened,
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let file = options.create(true).open(path)?;
    // Without this, a power cut could remove the directory entry, and with it all commits.
    File::open(folder)?.sync_all()?;
    Ok(file)
}

pub(super) fn get(database: &Database, key: &str) -> Result<Option<Entry>, Error> {
    let entries = database.begin_read()?.open_table(ENTRIES)?;
    let row = entries.get(key)?;
    Ok(row.map(|row| {
        let (until, recorded, fingerprint, bytes) = row.value();
        Entry {
            fingerprint: *fingerprint,
            state: if recorded { EntryState::Recorded } else { EntryState::Noted },
            bytes: bytes.to_vec(),
            until: Timestamp::from_millisecond(until).unwrap_or(Timestamp::MAX),
        }
    }))
}

pub(super) fn len(database: &Database) -> Result<u64, Error> {
    Ok(database.begin_read()?.open_table(ENTRIES)?.len()?)
}

/// True if at least one entry has expired at `now`.
pub(super) fn has_expired(database: &Database, now: Timestamp) -> Result<bool, Error> {
    let ends = database.begin_read()?.open_table(ENDS)?;
    Ok(ends.first()?.is_some_and(|(end, _)| end.value().0 <= now.as_millisecond()))
}

/// Calls `each` with every key, until it returns false.
pub(super) fn keys(database: &Database, mut each: impl FnMut(&str) -> bool) -> Result<(), Error> {
    let read = database.begin_read()?;
    let (entries, ends) = (read.open_table(ENTRIES)?, read.open_table(ENDS)?);
    // The same keys without the values, unless the file is damaged.
    if ends.len()? == entries.len()? {
        for end in ends.iter()? {
            if !each(end?.0.value().1) {
                break;
            }
        }
        return Ok(());
    }
    for entry in entries.iter()? {
        if !each(entry?.0.value()) {
            break;
        }
    }
    Ok(())
}

/// Applies `writes` and removes at most `sweep_max` entries that have expired at `now`, in one commit. Returns the keys of
/// the entries that were replaced or removed.
pub(super) fn apply(
    database: &Database,
    writes: &[Write],
    now: Timestamp,
    sweep_max: usize,
) -> Result<Vec<String>, Error> {
    let mut gone = Vec::new();
    let transaction = database.begin_write()?;
    {
        let mut entries = transaction.open_table(ENTRIES)?;
        let mut ends = transaction.open_table(ENDS)?;
        for Write { key, change, .. } in writes {
            let key = key.as_str();
            let (before, end) = match change {
                Change::Put(entry) => {
                    let until = entry.until.as_millisecond();
                    let recorded = entry.state == EntryState::Recorded;
                    let row = (until, recorded, &entry.fingerprint, entry.bytes.as_slice());
                    (entries.insert(key, row)?, Some(until))
                }
                Change::Remove => (entries.remove(key)?, None),
            };
            let ended = before.as_ref().map(|before| before.value().0);
            drop(before);
            if ended.is_some() {
                gone.push(key.to_owned());
            }
            // A note and its result usually have the same end.
            if ended == end {
                continue;
            }
            if let Some(ended) = ended {
                ends.remove((ended, key))?;
            }
            if let Some(end) = end {
                ends.insert((end, key), ())?;
            }
        }
        let expired = ends.extract_from_if(..(now.as_millisecond() + 1, ""), |_, ()| true)?;
        for end in expired.take(sweep_max) {
            let end = end?;
            let key = end.0.value().1;
            if entries.remove(key)?.is_some() {
                gone.push(key.to_owned());
            }
        }
    }
    transaction.commit()?;
    Ok(gone)
}

/// Runs `work` on the database at `path`. A panic counts as damage, because redb panics on some kinds of damage.
pub(super) fn guard<T>(path: &Path, work: impl FnOnce() -> Result<T, Error>) -> Result<T, LedgerError> {
    let damaged = |reason: String| LedgerError::Damaged { path: path.to_owned(), reason };
    let Ok(result) = catch_unwind(AssertUnwindSafe(work)) else {
        return Err(damaged("the file cannot be read".to_owned()));
    };
    result.map_err(|error| match error {
        Error::DatabaseAlreadyOpen => LedgerError::InUse { path: path.to_owned() },
        Error::Io(error) => io_error(path, &error),
        Error::Corrupted(reason) => damaged(reason),
        Error::UpgradeRequired(version) => damaged(format!("unsupported file format version {version}")),
        Error::TableTypeMismatch { .. } | Error::TypeDefinitionChanged { .. } => {
            damaged("written by another program".to_owned())
        }
        error => LedgerError::File { path: path.to_owned(), reason: error.to_string() },
    })
}

pub(super) fn io_error(path: &Path, error: &io::Error) -> LedgerError {
    let path = path.to_owned();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => LedgerError::Full { path },
        // redb returns these kinds for a file that has another header or is too short.
        ErrorKind::InvalidData | ErrorKind::UnexpectedEof => {
            LedgerError::Damaged { path, reason: "not written by this program, or truncated".to_owned() }
        }
        _ => LedgerError::File { path, reason: error.to_string() },
    }
}
