//! The effects that this process works on, each by one delivery at a time. Copies of one slow event would otherwise wait for the
//! ledger's claim with all the permits that other events need.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::breaker::EventKey;

/// What is being worked on.
#[derive(Clone, Debug, Default)]
pub(super) struct Working(Arc<Mutex<HashSet<EventKey>>>);

/// The right to work on an effect, until it is dropped.
#[derive(Debug)]
pub(super) struct Worked {
    working: Working,
    event: EventKey,
}

impl Working {
    /// The right to work on `event`, unless another delivery has it.
    pub(super) fn begin(&self, event: EventKey) -> Option<Worked> {
        self.lock().insert(event).then(|| Worked { working: self.clone(), event })
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<EventKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Worked {
    fn drop(&mut self) {
        self.working.lock().remove(&self.event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effect_is_worked_on_once_until_its_end() {
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
