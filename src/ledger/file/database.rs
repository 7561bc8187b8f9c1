//! What is in the file: entries by key, and keys in the order in which they end.

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

use super::{Change, writer::Write};
use crate::ledger::{
    LedgerError,
    entry::{Entry, EntryState},
};

/// Until when (in milliseconds since the epoch), whether it is a result (else a note), fingerprint, bytes.
type LedgerRow = (i64, bool, &'static [u8; 32], &'static [u8]);

pub(super) const ENTRIES: TableDefinition<'_, &str, LedgerRow> = TableDefinition::new("entries.1");
const ENDS: TableDefinition<'_, (i64, &str), ()> = TableDefinition::new("ends.1");
/// Memory for pages, in bytes. The system caches the file besides.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// Opens the database at `path`: for the `first` time in this process, or again after an I/O error. At first an absent one
/// is made, and the whole file is checked. Again it is not: a large file would be read whole at each try while its disk
/// fails, and redb itself repairs what a failed commit left.
pub(super) fn open(path: &Path, first: bool) -> Result<Database, LedgerError> {
    let file = open_file(path, first).map_err(|error| io_error(path, &error))?;
    guard(path, || {
        let mut database = Builder::new().set_cache_size(CACHE_BYTES).create_file(file)?;
        // redb verifies its checksums after a crash only; a damaged page would else be found in the middle of work.
        if first && !database.check_integrity()? {
            warn!(path = %path.display(), "the ledger was damaged and is repaired; its last records may be lost");
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
    // Else a power cut could take the file's name, and with it all that was committed.
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

/// Whether an entry has ended by `now`.
pub(super) fn has_ended(database: &Database, now: Timestamp) -> Result<bool, Error> {
    let ends = database.begin_read()?.open_table(ENDS)?;
    Ok(ends.first()?.is_some_and(|(end, _)| end.value().0 <= now.as_millisecond()))
}

/// Makes `writes` and removes `sweep_max` entries that ended by `now`, at most, in one commit.
pub(super) fn apply(
    database: &Database,
    writes: &[Write],
    now: Timestamp,
    sweep_max: usize,
) -> Result<(), Error> {
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
            if let Some(before) = before {
                ends.remove((before.value().0, key))?;
            }
            if let Some(end) = end {
                ends.insert((end, key), ())?;
            }
        }
        let ended = ends.extract_from_if(..(now.as_millisecond() + 1, ""), |_, ()| true)?;
        for end in ended.take(sweep_max) {
            entries.remove(end?.0.value().1)?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Runs `work` on the database at `path`. redb panics on some kinds of damage.
pub(super) fn guard<T>(path: &Path, work: impl FnOnce() -> Result<T, Error>) -> Result<T, LedgerError> {
    let damaged = |reason: String| LedgerError::Damaged { path: path.to_owned(), reason };
    let Ok(result) = catch_unwind(AssertUnwindSafe(work)) else {
        return Err(damaged("reading it fails".to_owned()));
    };
    result.map_err(|error| match error {
        Error::DatabaseAlreadyOpen => LedgerError::InUse { path: path.to_owned() },
        Error::Io(error) => io_error(path, &error),
        Error::Corrupted(reason) => damaged(reason),
        Error::UpgradeRequired(version) => damaged(format!("its format is version {version}")),
        Error::TableTypeMismatch { .. } | Error::TypeDefinitionChanged { .. } => {
            damaged("another program wrote it".to_owned())
        }
        error => LedgerError::File { path: path.to_owned(), reason: error.to_string() },
    })
}

pub(super) fn io_error(path: &Path, error: &io::Error) -> LedgerError {
    let path = path.to_owned();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => LedgerError::Full { path },
        // What redb says of a file that does not begin like one of its own, or ends too early.
        ErrorKind::InvalidData | ErrorKind::UnexpectedEof => {
            LedgerError::Damaged { path, reason: "it is not one of this program, or is cut off".to_owned() }
        }
        _ => LedgerError::File { path, reason: error.to_string() },
    }
}
