//! Lets this process work on each effect with one delivery at a time. Otherwise copies of one slow event would wait
//! for the ledger's claim and use up the permits that other events need.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::breaker::EventKey;

/// The effects in progress.
#[derive(Clone, Debug, Default)]
pub(super) struct Working(Arc<Mutex<HashSet<EventKey>>>);

/// The exclusive right to work on an effect, until it is dropped.
#[derive(Debug)]
pub(super) struct WorkGuard {
    working: Working,
    event: EventKey,
}

impl Working {
    /// Reserves `event`. Returns `None` if another delivery has reserved it.
    pub(super) fn begin(&self, event: EventKey) -> Option<WorkGuard> {
        self.lock().insert(event).then(|| WorkGuard { working: self.clone(), event })
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<EventKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for WorkGuard {
    fn drop(&mut self) {
        self.working.lock().remove(&self.event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effect_is_reserved_until_its_work_ends() {
        let working = Working::default();
        let [one, other] = ["one", "other"].map(EventKey::of);
        let first = working.begin(one);
        assert!(first.is_some() && working.begin(other).is_some());
        assert!(working.begin(one).is_none());
        drop(first);
        assert!(working.begin(one).is_some());
        assert!(working.lock().is_empty());
    }
}
