//! Limits the bytes of memory that work in progress may take.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes in one permit.
const UNIT: usize = 1024;

/// A budget of bytes. Requests are served in order of arrival, so a large one does not wait forever.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    units: Arc<Semaphore>,
    all: u32,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        let all = units(bytes);
        Self { units: Arc::new(Semaphore::new(all as usize)), all }
    }

    /// Waits for `bytes`, or for the whole budget if it is smaller: oversized work runs alone.
    pub(super) async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        Arc::clone(&self.units).acquire_many_owned(units(bytes).min(self.all)).await.ok()
    }
}

fn units(bytes: usize) -> u32 {
    // A tokio semaphore has at most usize::MAX >> 3 permits, which is less on 32-bit machines.
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, u32::MAX >> 3)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn budget_with_oversized_work_waits_for_all_bytes() {
        let budget = Budget::new(10 * UNIT);
        let now = |bytes| budget.take(bytes).now_or_never().flatten();
        let (six, four) = (now(6 * UNIT), now(3 * UNIT + 1));
        assert!(six.is_some() && four.is_some() && now(1).is_none());
        drop(four);
        assert!(now(100 * UNIT).is_none());
        let small = now(1);
        drop((six, small));
        let all = now(100 * UNIT);
        assert!(all.is_some() && now(0).is_none(), "oversized work runs alone");
        drop(all);
        assert!(now(0).is_some());
    }
}
