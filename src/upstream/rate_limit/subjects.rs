//! Distinguishes a Retry-After for one subject from a Retry-After for all calls.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
};

use tokio::time::Instant;

/// After this many Retry-Afters, each preceded by a successful call for another subject, a limit applies to the subject
/// only.
const ALONE_AFTER: u32 = 2;
/// Maximum number of remembered subjects. One more clears the list, because so many subjects share one limit.
const SUBJECTS_MAX: usize = 256;

/// Subjects whose calls got a Retry-After, and the last successful call. Only hashes of the subjects are kept.
#[derive(Debug, Default)]
pub(super) struct LimitedSubjects {
    limited: HashMap<u64, LimitedSubject>,
    /// Start of the last successful call.
    succeeded: Option<Instant>,
    hasher: RandomState,
}

#[derive(Debug)]
struct LimitedSubject {
    /// Time of the last Retry-After.
    at: Instant,
    /// Number of Retry-Afters that followed a successful call for another subject.
    alone: u32,
}

impl LimitedSubjects {
    /// Records a successful call for `subject` that started at `started`.
    pub(super) fn succeeded(&mut self, subject: &str, started: Instant) {
        self.limited.remove(&self.hasher.hash_one(subject));
        self.succeeded = self.succeeded.max(Some(started));
    }

    /// Records a Retry-After for `subject`. Returns true if the limit applies to this subject only. That is never so for
    /// the first Retry-Afters of a subject. A Retry-After for a new subject resets the counts of all subjects.
    pub(super) fn limit(&mut self, subject: &str) -> bool {
        let (now, subject) = (Instant::now(), self.hasher.hash_one(subject));
        if self.limited.len() >= SUBJECTS_MAX && !self.limited.contains_key(&subject) {
            self.limited.clear();
        }
        match self.limited.entry(subject) {
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                let other_succeeded = self.succeeded.is_some_and(|started| started > known.at);
                *known =
                    LimitedSubject { at: now, alone: known.alone.saturating_add(other_succeeded.into()) };
                known.alone >= ALONE_AFTER
            }
            Entry::Vacant(new) => {
                new.insert(LimitedSubject { at: now, alone: 0 });
                self.limited.values_mut().for_each(|known| known.alone = 0);
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
    async fn subjects_limited_while_others_succeed_are_limited_alone() {
        let mut subjects = LimitedSubjects::default();
        let mut alone = Vec::new();
        for _ in 0..4 {
            alone.push(["one", "two"].map(|subject| subjects.limit(subject)));
            subjects.succeeded("other", pass().await);
            pass().await;
        }
        assert_eq!(alone, [[false; 2], [false; 2], [true; 2], [true; 2]]);
        assert!(!subjects.limit("new"), "first Retry-After of this subject");
        subjects.succeeded("other", pass().await);
        pass().await;
        assert!(!subjects.limit("one"), "a new subject was limited");
    }

    #[tokio::test(start_paused = true)]
    async fn limit_is_for_all_unless_a_later_call_of_another_subject_succeeds() {
        let mut subjects = LimitedSubjects::default();
        for _ in 0..4 {
            let before = pass().await;
            pass().await;
            assert!(!subjects.limit("one"));
            subjects.succeeded("other", before);
        }
        for _ in 0..4 {
            assert!(!subjects.limit("one"));
            subjects.succeeded("one", pass().await);
            pass().await;
        }
        for n in 0..1_000 {
            subjects.limit(&n.to_string());
        }
        assert!(subjects.limited.len() <= SUBJECTS_MAX);
    }
}
