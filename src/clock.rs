//! The time of day, read in one place so that a simulation can set it to the paused time of its runtime. Waits and
//! limits use tokio's time throughout, which can be paused in the same way.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};

/// The current time.
#[must_use]
pub(crate) fn now() -> Timestamp {
    #[cfg(test)]
    if let Some(now) = simulated::now() {
        return now;
    }
    Timestamp::now()
}

/// The current time, without any forward jump of the clock since this process began; may be earlier. For actions that
/// can't be undone if the clock was wrong for a moment.
#[must_use]
pub(crate) fn steady() -> Timestamp {
    static BEGUN: LazyLock<(Timestamp, Instant)> = LazyLock::new(|| (Timestamp::now(), Instant::now()));
    let (at, since) = *BEGUN;
    passed(at, since.elapsed(), now())
}

fn passed(begun: Timestamp, passed: Duration, now: Timestamp) -> Timestamp {
    let passed = SignedDuration::try_from(passed).unwrap_or(SignedDuration::MAX);
    begun.saturating_add(passed).unwrap_or(Timestamp::MAX).min(now)
}

#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::Cell;

    use jiff::{SignedDuration, Timestamp};
    use tokio::time::Instant;

    thread_local! {
        static BEGUN: Cell<Option<(Instant, Timestamp)>> = const { Cell::new(None) };
    }

    /// Sets this thread's clock to `at`; it then advances with the runtime's time, until the guard is dropped.
    pub(crate) fn begin(at: Timestamp) -> Guard {
        BEGUN.set(Some((Instant::now(), at)));
        Guard
    }

    pub(super) fn now() -> Option<Timestamp> {
        let (since, at) = BEGUN.get()?;
        let passed = SignedDuration::try_from(since.elapsed()).unwrap_or(SignedDuration::MAX);
        Some(at.saturating_add(passed).unwrap_or(Timestamp::MAX))
    }

    /// Ends the simulated time when dropped.
    pub(crate) struct Guard;

    impl Drop for Guard {
        fn drop(&mut self) {
            BEGUN.set(None);
        }
    }

    #[test]
    fn steady_time_ignores_a_forward_jump_of_the_clock() {
        let begun: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let later = |seconds| begun + SignedDuration::from_secs(seconds);
        for (clock, steady) in [(later(60), later(60)), (later(90_000), later(60)), (later(-9), later(-9))] {
            assert_eq!(super::passed(begun, std::time::Duration::from_secs(60), clock), steady);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn simulated_time_advances_with_the_runtimes_time() {
        let noon: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let guard = begin(noon);
        tokio::time::sleep(std::time::Duration::from_secs(90)).await;
        assert_eq!(super::now(), noon + SignedDuration::from_secs(90));
        drop(guard);
        assert!(super::now() != noon + SignedDuration::from_secs(90));
    }
}
