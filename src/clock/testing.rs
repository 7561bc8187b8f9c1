//! A time of day for tests whose runtime is paused.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::{Clock, TimeOfDay};

/// The time of day that passes with the runtime's paused time.
#[derive(Debug)]
struct RuntimeTime {
    begun: Timestamp,
    since: Instant,
}

impl TimeOfDay for RuntimeTime {
    fn now(&self) -> Timestamp {
        self.begun + SignedDuration::try_from(self.since.elapsed()).unwrap()
    }

    fn steady(&self) -> Timestamp {
        self.now()
    }
}

/// A clock that shows `begun` now, and then passes with the runtime's time.
pub(crate) fn runtime_clock(begun: Timestamp) -> Clock {
    Clock::of(RuntimeTime { begun, since: Instant::now() })
}
