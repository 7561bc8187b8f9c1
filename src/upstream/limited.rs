//! Tells a Retry-After that one subject meets from one for all calls.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
};

use tokio::time::Instant;

/// So often others were served between the Retry-Afters of a subject: then they are its own.
const OWN: u32 = 2;
/// Most subjects that are remembered. One more, and all are forgotten: so many are limited together.
const REMEMBERED_MAX: usize = 256;

/// The subjects of calls that were answered with a Retry-After, and what was served in between. Of a subject only a hash is kept.
#[derive(Debug, Default)]
pub(super) struct Limited {
    met: HashMap<u64, Met>,
    /// The begin of the last call that was served.
    served: Option<Instant>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Met {
    at: Instant,
    /// How often another subject was served since the time before.
    own: u32,
}

impl Limited {
    /// A call for `subject`, begun at `begun`, was served.
    pub(super) fn served(&mut self, subject: &str, begun: Instant) {
        self.met.remove(&self.hasher.hash_one(subject));
        self.served = self.served.max(Some(begun));
    }

    /// A call for `subject` is answered with a Retry-After; whether that is for this subject alone. The first ones never are, and
    /// none is after a subject met one that met none before.
    pub(super) fn is_own(&mut self, subject: &str) -> bool {
        let (now, subject) = (Instant::now(), self.hasher.hash_one(subject));
        if self.met.len() >= REMEMBERED_MAX && !self.met.contains_key(&subject) {
            self.met.clear();
        }
        match self.met.entry(subject) {
            Entry::Occupied(mut met) => {
                let met = met.get_mut();
                let served = self.served.is_some_and(|served| served > met.at);
                *met = Met { at: now, own: met.own.saturating_add(served.into()) };
                met.own >= OWN
            }
            Entry::Vacant(new) => {
                new.insert(Met { at: now, own: 0 });
                self.met.values_mut().for_each(|met| met.own = 0);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    async fn pass() -> Instant {
        sleep(Duration::from_secs(1)).await;
        Instant::now()
    }

    #[tokio::test(start_paused = true)]
    async fn same_subjects_that_are_limited_while_others_are_served_are_limited_alone() {
        let mut limited = Limited::default();
        let mut own = Vec::new();
        for _ in 0..4 {
            own.push(["one", "two"].map(|subject| limited.is_own(subject)));
            limited.served("other", pass().await);
            pass().await;
        }
        assert_eq!(own, [[false; 2], [false; 2], [true; 2], [true; 2]]);
        assert!(!limited.is_own("new"), "whoever never met one");
        limited.served("other", pass().await);
        pass().await;
        assert!(!limited.is_own("one"), "there was a new one");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_own_unless_another_call_began_and_was_served_in_between() {
        let mut limited = Limited::default();
        for _ in 0..4 {
            let before = pass().await;
            pass().await;
            assert!(!limited.is_own("one"));
            limited.served("other", before);
        }
        for _ in 0..4 {
            assert!(!limited.is_own("one"));
            limited.served("one", pass().await);
            pass().await;
        }
        for n in 0..1_000 {
            limited.is_own(&n.to_string());
        }
        assert!(limited.met.len() <= REMEMBERED_MAX);
    }
}
