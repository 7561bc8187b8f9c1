//! The bytes of memory that the work in progress may take.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes in one permit.
const UNIT: usize = 1024;

/// A budget of bytes. Whoever comes first is served first, so that no large piece of work waits for ever.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    units: Arc<Semaphore>,
    all: u32,
}

impl Budget {
    /// A budget of `bytes`.
    pub(super) fn new(bytes: usize) -> Self {
        let all = units(bytes);
        Self { units: Arc::new(Semaphore::new(all as usize)), all }
    }

    /// Waits for `bytes` of it, or for all of it if that is less: what is too large is worked on alone.
    pub(super) async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        Arc::clone(&self.units).acquire_many_owned(units(bytes).min(self.all)).await.ok()
    }
}

fn units(bytes: usize) -> u32 {
    // As many permits as a semaphore bears on any machine.
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, u32::MAX >> 3)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn work_waits_for_its_bytes_and_too_large_work_for_all() {
        let budget = Budget::new(10 * UNIT);
        let now = |bytes| budget.take(bytes).now_or_never().flatten();
        let (six, four) = (now(6 * UNIT), now(3 * UNIT + 1));
        assert!(six.is_some() && four.is_some() && now(1).is_none());
        drop(four);
        assert!(now(100 * UNIT).is_none());
        let small = now(1);
        drop((six, small));
        let all = now(100 * UNIT);
        assert!(all.is_some() && now(0).is_none(), "it is worked on alone");
        drop(all);
        assert!(now(0).is_some());
    }
}
