//! The keys of a ledger file, in memory. Most claims are for new keys. They need neither the disk nor another thread.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use redb::Database;

use super::database;

/// Maximum number of hashes. With so many, a table needs at most 19 MiB: it grows once more while removed hashes take up room in it.
const HASHES_MAX: usize = (1 << 20) / 8 * 7;

/// Number of keys in the file for each hash of a key. `None` if the keys are not known: not read yet, or too many.
///
/// A key that is missing here is not in the file. The opposite is not certain, because keys may share a hash, and after
/// a failed write the file may or may not have the key.
#[derive(Debug, Default)]
pub(super) struct KnownKeys {
    counts: Mutex<Option<HashMap<u32, u32>>>,
    hasher: RandomState,
}

impl KnownKeys {
    /// Reads all keys of `database`, the file at `path`, to which nothing may be written meanwhile. If this fails, each claim reads the
    /// file.
    pub(super) fn read(&self, path: &Path, database: &Database) {
        self.load(|each| database::guard(path, || database::keys(database, each)));
    }

    /// Reads all keys of the file with `read`, which gets a function that takes one key and returns false to stop. Nothing may
    /// be written meanwhile.
    fn load<E>(&self, read: impl FnOnce(&mut dyn FnMut(&str) -> bool) -> Result<(), E>) {
        let (mut known, mut fits) = (HashMap::new(), true);
        let read = read(&mut |key| {
            fits = count(&mut known, self.hash(key));
            fits
        });
        *self.counts() = Some(known).filter(|_| read.is_ok() && fits);
    }

    /// Adds `keys`, before the file has them.
    pub(super) fn add<'a>(&self, keys: impl IntoIterator<Item = &'a str>) {
        let mut counts = self.counts();
        let Some(known) = &mut *counts else { return };
        let fits = keys.into_iter().all(|key| count(known, self.hash(key)));
        if !fits {
            *counts = None;
        }
    }

    /// Removes `keys`, once for each time that they were added, when the file does not have them any more.
    pub(super) fn remove<'a>(&self, keys: impl IntoIterator<Item = &'a str>) {
        let mut counts = self.counts();
        let Some(known) = &mut *counts else { return };
        for key in keys {
            let hash = self.hash(key);
            match known.get_mut(&hash) {
                Some(count) if *count > 1 => *count -= 1,
                _ => _ = known.remove(&hash),
            }
        }
    }

    /// True if the file certainly does not have `key`.
    pub(super) fn is_absent(&self, key: &str) -> bool {
        self.counts().as_ref().is_some_and(|known| !known.contains_key(&self.hash(key)))
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "32 bits are enough: a shared hash costs only a read"
    )]
    fn hash(&self, key: &str) -> u32 {
        self.hasher.hash_one(key) as u32
    }

    fn counts(&self) -> MutexGuard<'_, Option<HashMap<u32, u32>>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a key. Returns false if there is no room for its hash.
fn count(known: &mut HashMap<u32, u32>, hash: u32) -> bool {
    let fits = known.len() < HASHES_MAX || known.contains_key(&hash);
    if fits {
        *known.entry(hash).or_default() += 1;
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys of a file that had these `keys` at the start.
    fn known(keys: &[&str]) -> KnownKeys {
        let known = KnownKeys::default();
        known.load(|each| {
            for key in keys {
                each(key);
            }
            Ok::<_, ()>(())
        });
        known
    }

    #[test]
    fn key_is_absent_only_if_removed_as_often_as_added() {
        let keys = known(&["a"]);
        assert_eq!([keys.is_absent("a"), keys.is_absent("b")], [false, true]);
        keys.add(["a", "b"]);
        keys.remove(["a", "b"]);
        assert_eq!([keys.is_absent("a"), keys.is_absent("b")], [false, true]);
        keys.remove(["a"]);
        assert!(keys.is_absent("a"));
    }

    #[test]
    fn no_key_is_absent_before_the_file_was_read() {
        let keys = KnownKeys::default();
        keys.add(["a"]);
        assert!(!keys.is_absent("b"));
        keys.load(|each| {
            each("a");
            Err(())
        });
        assert!(!keys.is_absent("b"), "the file could not be read");
    }

    #[test]
    fn no_key_is_absent_if_there_are_too_many() {
        let full = || Some((0..u32::try_from(HASHES_MAX).unwrap()).map(|hash| (hash, 1)).collect());
        let keys = known(&[]);
        let other =
            (0..1_000_000).map(|n| n.to_string()).find(|key| keys.hash(key) as usize >= HASHES_MAX).unwrap();
        *keys.counts() = full();
        assert!(keys.is_absent(&other));
        keys.add([other.as_str()]);
        assert!(!keys.is_absent("a") && keys.counts().is_none());
        keys.load(|each| {
            for n in 0.. {
                if !each(&n.to_string()) {
                    return Ok::<_, ()>(());
                }
            }
            Ok(())
        });
        assert!(keys.counts().is_none(), "there are more in the file");
    }
}
