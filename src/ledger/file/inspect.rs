//! Inspection of a ledger file for `check`. The file is not created, changed or locked.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use redb::{DatabaseError, Error, ReadOnlyDatabase, ReadableDatabase as _, ReadableTableMetadata as _};
use uuid::Uuid;

use super::database::{ENTRIES, guard, io_error};
use crate::ledger::LedgerError;

/// State of a ledger file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileStatus {
    /// The file can be opened and has this many entries.
    Ready(u64),
    /// The file can be opened after the repair that follows a crash.
    Repair,
    /// A process has the file open.
    InUse,
    /// The file is missing. It can be created in this folder, or in a new folder below it.
    Absent(PathBuf),
}

/// Inspects the file at `path`. If the file is missing, a temporary file tests that the folder is writable.
///
/// # Errors
/// [`LedgerError`] if a worker could not open or create the file.
pub(in crate::ledger) fn inspect(path: &Path) -> Result<FileStatus, LedgerError> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => opened(path, &file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            absent(path).map_err(|error| io_error(path, &error))
        }
        Err(error) => Err(io_error(path, &error)),
    }
}

fn opened(path: &Path, file: &File) -> Result<FileStatus, LedgerError> {
    let size = file.metadata().map_err(|error| io_error(path, &error))?.len();
    // Left by a worker that was killed while it created the file.
    if size == 0 {
        return Ok(FileStatus::Ready(0));
    }
    let inspected = guard(path, || match ReadOnlyDatabase::open(path) {
        Ok(database) => match database.begin_read()?.open_table(ENTRIES) {
            Ok(entries) => Ok(FileStatus::Ready(entries.len()?)),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(FileStatus::Ready(0)),
            Err(error) => Err(error.into()),
        },
        Err(DatabaseError::RepairAborted) => Ok(FileStatus::Repair),
        Err(error) => Err(Error::from(error)),
    });
    match inspected {
        Err(LedgerError::InUse { .. }) => Ok(FileStatus::InUse),
        inspected => inspected,
    }
}

fn absent(path: &Path) -> io::Result<FileStatus> {
    let mut folder = path.parent().unwrap_or(Path::new("."));
    if folder.as_os_str().is_empty() {
        folder = Path::new(".");
    }
    while !folder.exists() {
        folder = folder.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    }
    let tried = folder.join(format!(".instant-connect-worker-check-{}", Uuid::new_v4()));
    OpenOptions::new().write(true).create_new(true).open(&tried)?;
    fs::remove_file(&tried)?;
    Ok(FileStatus::Absent(folder.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Ledger, LedgerKind};

    #[tokio::test]
    async fn inspection_reports_the_state_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/one.ledger");
        assert_eq!(inspect(&path).unwrap(), FileStatus::Absent(folder.path().to_owned()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "no file is left behind");
        let ledger = Ledger::open(LedgerKind::File { path: path.clone() }).await.unwrap();
        assert_eq!(inspect(&path).unwrap(), FileStatus::InUse);
        ledger.ping().await.unwrap();
        ledger.close().await;
        drop(ledger);
        let before = fs::read(&path).unwrap();
        assert!(matches!(inspect(&path).unwrap(), FileStatus::Ready(0) | FileStatus::Repair));
        assert_eq!(fs::read(&path).unwrap(), before);
        fs::write(&path, "this text is not a ledger, and it is much longer than a header".repeat(99))
            .unwrap();
        assert!(matches!(inspect(&path).unwrap_err(), LedgerError::Damaged { .. }));
        let nowhere = Path::new("/dev/null/one.ledger");
        assert!(matches!(inspect(nowhere).unwrap_err(), LedgerError::File { .. }));
    }
}
