//! A look at a ledger's file from outside, for `check`: it is neither made nor changed, nor kept from the worker that has it.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use redb::{DatabaseError, Error, ReadOnlyDatabase, ReadableDatabase as _, ReadableTableMetadata as _};
use uuid::Uuid;

use super::database::{ENTRIES, guard, io_error};
use crate::ledger::LedgerError;

/// What there is of a ledger's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// It can be opened, and has this many entries.
    Ready(u64),
    /// It can be opened, after the repair that follows a crash.
    Repair,
    /// A process has it open.
    InUse,
    /// It is not there, and can be made in this folder, or in one that is made below it.
    Absent(PathBuf),
}

/// Looks at the file at `path`. Where it is not there, the folder is tried with a file that is gone again at once.
///
/// # Errors
/// [`LedgerError`] where a worker could not open the file or make it.
pub(in crate::ledger) fn look(path: &Path) -> Result<Look, LedgerError> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => opened(path, &file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            absent(path).map_err(|error| io_error(path, &error))
        }
        Err(error) => Err(io_error(path, &error)),
    }
}

fn opened(path: &Path, file: &File) -> Result<Look, LedgerError> {
    let size = file.metadata().map_err(|error| io_error(path, &error))?.len();
    // Left by a worker that was killed as it made it.
    if size == 0 {
        return Ok(Look::Ready(0));
    }
    let looked = guard(path, || match ReadOnlyDatabase::open(path) {
        Ok(database) => match database.begin_read()?.open_table(ENTRIES) {
            Ok(entries) => Ok(Look::Ready(entries.len()?)),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(Look::Ready(0)),
            Err(error) => Err(error.into()),
        },
        Err(DatabaseError::RepairAborted) => Ok(Look::Repair),
        Err(error) => Err(Error::from(error)),
    });
    match looked {
        Err(LedgerError::InUse { .. }) => Ok(Look::InUse),
        looked => looked,
    }
}

fn absent(path: &Path) -> io::Result<Look> {
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
    Ok(Look::Absent(folder.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Ledger, LedgerKind};

    #[tokio::test]
    async fn a_file_is_looked_at_as_it_is_and_stays_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/one.ledger");
        assert_eq!(look(&path).unwrap(), Look::Absent(folder.path().to_owned()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
        let ledger = Ledger::open(LedgerKind::File { path: path.clone() }).await.unwrap();
        assert_eq!(look(&path).unwrap(), Look::InUse);
        ledger.ping().await.unwrap();
        ledger.close().await;
        drop(ledger);
        let before = fs::read(&path).unwrap();
        assert!(matches!(look(&path).unwrap(), Look::Ready(0) | Look::Repair));
        assert_eq!(fs::read(&path).unwrap(), before);
        fs::write(&path, "this is no ledger, and much longer than a header would be".repeat(99)).unwrap();
        assert!(matches!(look(&path).unwrap_err(), LedgerError::Damaged { .. }));
        let nowhere = Path::new("/dev/null/one.ledger");
        assert!(matches!(look(nowhere).unwrap_err(), LedgerError::File { .. }));
    }
}
