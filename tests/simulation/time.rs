//! The time of day in a simulated world: it advances with the paused time of the runtime.

use instant_connect_worker::clock::{Clock, TimeOfDay};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// A clock that showed `at` at tokio's time `since`.
#[derive(Debug)]
struct PausedTime {
    since: Instant,
    at: Timestamp,
}

/// A clock that shows `at` now.
pub(crate) fn clock_at(at: Timestamp) -> Clock {
    Clock::of(PausedTime { since: Instant::now(), at })
}

impl TimeOfDay for PausedTime {
    fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.since.elapsed()).unwrap_or(SignedDuration::MAX);
        self.at.saturating_add(passed).unwrap_or(Timestamp::MAX)
    }

    fn steady(&self) -> Timestamp {
        self.now()
    }
}

#[tokio::test(start_paused = true)]
async fn simulated_time_advances_with_the_runtimes_time() {
    let noon: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
    let clock = clock_at(noon);
    tokio::time::sleep(std::time::Duration::from_secs(90)).await;
    let later = noon + SignedDuration::from_secs(90);
    assert_eq!((clock.now(), clock.steady()), (later, later));
}
