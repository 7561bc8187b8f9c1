//! The time of day, as a value that its users are given. A simulation gives them the paused time of its runtime. Waits
//! and limits use tokio's time throughout, which can be paused in the same way.

use std::{
    fmt,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};

/// A source of the time of day.
pub trait TimeOfDay: fmt::Debug + Send + Sync {
    /// The current time.
    fn now(&self) -> Timestamp;

    /// The current time, without any forward jump of the clock since this process began; may be earlier. For actions
    /// that can't be undone if the clock was wrong for a moment.
    fn steady(&self) -> Timestamp;
}

/// The time of day; cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Arc<dyn TimeOfDay>);

/// The time of day of the operating system.
#[derive(Debug)]
struct SystemTime;

impl Clock {
    /// The clock of the operating system.
    #[must_use]
    pub fn system() -> Self {
        Self::of(SystemTime)
    }

    /// A clock that shows the time of `source`.
    #[must_use]
    pub fn of(source: impl TimeOfDay + 'static) -> Self {
        Self(Arc::new(source))
    }

    /// The current time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.0.now()
    }

    /// The current time, without any forward jump; see [`TimeOfDay::steady`].
    #[must_use]
    pub fn steady(&self) -> Timestamp {
        self.0.steady()
    }
}

impl TimeOfDay for SystemTime {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn steady(&self) -> Timestamp {
        static BEGUN: LazyLock<(Timestamp, Instant)> = LazyLock::new(|| (Timestamp::now(), Instant::now()));
        let (at, since) = *BEGUN;
        passed(at, since.elapsed(), self.now())
    }
}

fn passed(begun: Timestamp, passed: Duration, now: Timestamp) -> Timestamp {
    let passed = SignedDuration::try_from(passed).unwrap_or(SignedDuration::MAX);
    begun.saturating_add(passed).unwrap_or(Timestamp::MAX).min(now)
}

/// The current time, for modules that are not given a [`Clock`] yet.
#[must_use]
pub(crate) fn now() -> Timestamp {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steady_time_ignores_a_forward_jump_of_the_clock() {
        let begun: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let later = |seconds| begun + SignedDuration::from_secs(seconds);
        for (clock, steady) in [(later(60), later(60)), (later(90_000), later(60)), (later(-9), later(-9))] {
            assert_eq!(passed(begun, Duration::from_secs(60), clock), steady);
        }
    }
}
