//! A bounded log that removes its oldest entries, so that the memory of a sandbox does not grow.

use std::collections::VecDeque;

/// Keeps the latest entries, limited by their number and by their total size.
pub(super) struct Ring<T> {
    entries: VecDeque<(usize, T)>,
    count_max: usize,
    bytes_max: usize,
    bytes: usize,
}

impl<T> Ring<T> {
    pub(super) const fn new(count_max: usize, bytes_max: usize) -> Self {
        Self { entries: VecDeque::new(), count_max, bytes_max, bytes: 0 }
    }

    /// Appends `entry` and returns the removed entries. `bytes` is the approximate size of the entry.
    pub(super) fn push(&mut self, entry: T, bytes: usize) -> Vec<T> {
        self.entries.push_back((bytes, entry));
        self.bytes += bytes;
        let mut removed = Vec::new();
        while self.entries.len() > self.count_max || (self.bytes > self.bytes_max && self.entries.len() > 1) {
            let Some((bytes, entry)) = self.entries.pop_front() else { break };
            self.bytes -= bytes;
            removed.push(entry);
        }
        removed
    }

    /// The entries, oldest first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.entries.iter().map(|(_, entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::Ring;

    #[test]
    fn oldest_entry_is_removed_above_the_maximum_count() {
        let mut ring = Ring::new(2, 100);
        let removed: Vec<i32> = [1, 2, 3].into_iter().flat_map(|n| ring.push(n, 1)).collect();
        assert_eq!(removed, [1]);
        assert_eq!(ring.iter().copied().collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn oldest_entries_are_removed_above_the_maximum_size_except_the_latest() {
        let mut ring = Ring::new(10, 10);
        ring.push("a", 4);
        ring.push("b", 4);
        assert_eq!(ring.push("c", 50), ["a", "b"]);
        assert_eq!(ring.iter().copied().collect::<Vec<_>>(), ["c"]);
    }
}
