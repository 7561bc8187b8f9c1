//! Random numbers, as a value that its users are given. A simulation gives them the numbers of a seed.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    ops::RangeBounds,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fastrand::Rng;

/// A source of random numbers; cheap to clone. All clones draw from the same sequence. Not for secrets.
#[derive(Clone)]
pub struct Random(Arc<Mutex<Rng>>);

/// Without the state, from which the next numbers follow.
impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random")
    }
}

impl Random {
    /// A source that the operating system seeds.
    #[must_use]
    pub fn system() -> Self {
        // Each `RandomState` has keys of its own.
        Self::with_seed(RandomState::new().hash_one(()))
    }

    /// A source whose numbers follow from `seed`.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Rng::with_seed(seed))))
    }

    /// A number from 0 to 1, without 1.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        self.rng().f64()
    }

    /// A number in `range`, which must not be empty.
    #[must_use]
    pub fn u32(&self, range: impl RangeBounds<u32>) -> u32 {
        self.rng().u32(range)
    }

    /// A number in `range`, which must not be empty.
    #[must_use]
    pub fn u64(&self, range: impl RangeBounds<u64>) -> u64 {
        self.rng().u64(range)
    }

    fn rng(&self) -> MutexGuard<'_, Rng> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_from_the_seed_and_clones_share_them() {
        let (random, same) = (Random::with_seed(7), Random::with_seed(7));
        let drawn = [random.u64(..), random.clone().u64(..), random.u64(..)];
        assert_eq!(drawn, [same.u64(..), same.u64(..), same.u64(..)]);
        assert_ne!(drawn[0], drawn[1]);
        assert_ne!(Random::system().u64(..), Random::system().u64(..));
    }
}
