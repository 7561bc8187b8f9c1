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

#[cfg(test)]
pub(crate) mod testing;

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
