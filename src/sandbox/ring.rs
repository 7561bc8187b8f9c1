//! A log that forgets its oldest entries, so that a sandbox that runs for weeks doesn't grow.

use std::collections::VecDeque;

/// Keeps the latest entries, bounded by their number and by their size together.
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

    /// Appends, and gives back what had to go for it. `bytes` is the entry's size, near enough.
    pub(super) fn push(&mut self, entry: T, bytes: usize) -> Vec<T> {
        self.entries.push_back((bytes, entry));
        self.bytes += bytes;
        let mut gone = Vec::new();
        while self.entries.len() > self.count_max || (self.bytes > self.bytes_max && self.entries.len() > 1) {
            let Some((bytes, entry)) = self.entries.pop_front() else { break };
            self.bytes -= bytes;
            gone.push(entry);
        }
        gone
    }

    /// Oldest first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.entries.iter().map(|(_, entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::Ring;

    #[test]
    fn the_oldest_goes_when_there_are_too_many() {
        let mut ring = Ring::new(2, 100);
        let gone: Vec<i32> = [1, 2, 3].into_iter().flat_map(|n| ring.push(n, 1)).collect();
        assert_eq!(gone, [1]);
        assert_eq!(ring.iter().copied().collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn the_oldest_go_when_they_are_too_large_but_the_latest_always_stays() {
        let mut ring = Ring::new(10, 10);
        ring.push("a", 4);
        ring.push("b", 4);
        assert_eq!(ring.push("c", 50), ["a", "b"]);
        assert_eq!(ring.iter().copied().collect::<Vec<_>>(), ["c"]);
    }
}
