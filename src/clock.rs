//! The time of day, asked for in one place, so that a simulation can set it: there it is the paused time of its runtime.
//! Waits and limits take tokio's time throughout, which stands still in the same way.

use jiff::Timestamp;

/// What time it is.
#[must_use]
pub fn now() -> Timestamp {
    #[cfg(test)]
    if let Some(now) = simulated::now() {
        return now;
    }
    Timestamp::now()
}

#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::Cell;

    use jiff::{SignedDuration, Timestamp};
    use tokio::time::Instant;

    thread_local! {
        static BEGUN: Cell<Option<(Instant, Timestamp)>> = const { Cell::new(None) };
    }

    /// Makes it `at` on this thread, and from here on later as the time of its runtime passes, until the guard is dropped.
    pub(crate) fn begin(at: Timestamp) -> Guard {
        BEGUN.set(Some((Instant::now(), at)));
        Guard
    }

    pub(super) fn now() -> Option<Timestamp> {
        let (since, at) = BEGUN.get()?;
        let passed = SignedDuration::try_from(since.elapsed()).unwrap_or(SignedDuration::MAX);
        Some(at.saturating_add(passed).unwrap_or(Timestamp::MAX))
    }

    /// The simulated time lasts as long as this.
    pub(crate) struct Guard;

    impl Drop for Guard {
        fn drop(&mut self) {
            BEGUN.set(None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn simulated_time_passes_as_the_runtimes_does() {
        let noon: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let guard = begin(noon);
        tokio::time::sleep(std::time::Duration::from_secs(90)).await;
        assert_eq!(super::now(), noon + SignedDuration::from_secs(90));
        drop(guard);
        assert!(super::now() != noon + SignedDuration::from_secs(90));
    }
}
