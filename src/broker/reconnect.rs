//! The waits between connection attempts, and the limit on log lines about an outage.

use std::time::Duration;

use tokio::time::Instant;

use super::connection::Reason;
use crate::{random::Random, retry};

/// The first wait between two attempts.
const INITIAL: Duration = Duration::from_millis(100);
/// A connection that lasts this long counts as successful.
const STABLE: Duration = Duration::from_secs(5);
/// Minimum time between two log lines about one outage. The reason may alternate, for example between nodes that each
/// fail in another way.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// The wait while each connection breaks on a message that can't be read. The broker counts these deliveries, and
/// dead-letters the message at its delivery limit.
const UNREADABLE: Duration = Duration::from_millis(50);
/// After this many failures in a row, the broker probably does not count the deliveries; the wait doubles.
const UNREADABLE_FAILURES: u32 = 32;

/// The waits of one connection. A connection that breaks soon after it was established counts as failed.
#[derive(Debug)]
pub struct ReconnectBackoff {
    max: Duration,
    random: Random,
    /// Failures in a row.
    failures: u32,
    /// Time at which the current connection was established.
    connected_at: Option<Instant>,
    /// Start of the current outage.
    down_since: Option<Instant>,
    /// Last logged reason of this outage, and its time.
    last_logged: Option<(Reason, Instant)>,
    /// The last log line about this connection reported success.
    is_up: bool,
}

impl ReconnectBackoff {
    /// Waits of at most `max`, spread by `random`.
    #[must_use]
    pub const fn new(max: Duration, random: Random) -> Self {
        Self {
            max,
            random,
            failures: 0,
            connected_at: None,
            down_since: None,
            last_logged: None,
            is_up: false,
        }
    }

    /// Records that the connection is established. Returns the length of the outage if it should be logged. Nothing
    /// is logged for a connection that keeps breaking.
    pub fn connected(&mut self) -> Option<Duration> {
        self.connected_at = Some(Instant::now());
        let took = self.down_since.map_or(Duration::ZERO, |since| since.elapsed());
        (!std::mem::replace(&mut self.is_up, true)).then_some(took)
    }

    /// Records that the connection failed for `reason`. `worked` is true if it settled something. Returns true if the
    /// failure should be logged: at once, then if the reason changes, at most once per minute.
    pub fn failed(&mut self, worked: bool, reason: Reason) -> bool {
        let now = Instant::now();
        let lasted = self.connected_at.take().is_some_and(|since| now - since >= STABLE);
        if worked || lasted {
            (self.failures, self.last_logged, self.down_since) = (0, None, None);
        }
        self.failures = self.failures.saturating_add(1);
        self.down_since.get_or_insert(now);
        let is_new = self
            .last_logged
            .is_none_or(|(last_logged, at)| last_logged != reason && now - at >= LOG_INTERVAL);
        if is_new {
            (self.last_logged, self.is_up) = (Some((reason, now)), false);
        }
        is_new
    }

    /// The wait before the next attempt.
    #[must_use]
    pub fn wait(&self) -> Duration {
        retry::reconnect_wait(INITIAL, self.max, self.failures, self.random.fraction())
    }

    /// The wait after a message that can't be read.
    #[must_use]
    pub fn wait_after_unreadable(&self) -> Duration {
        let doubled = 1u32.checked_shl(self.failures / UNREADABLE_FAILURES).unwrap_or(u32::MAX);
        UNREADABLE.saturating_mul(doubled).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MAX: Duration = Duration::from_secs(2);
    const ONE: Reason = Reason::Ended;
    const ANOTHER: Reason = Reason::Reply(403);

    #[tokio::test(start_paused = true)]
    async fn outage_is_logged_at_once_and_for_a_new_reason_once_a_minute() {
        let mut backoff = ReconnectBackoff::new(MAX, Random::system());
        assert!(backoff.failed(false, ONE));
        advance(LOG_INTERVAL / 2).await;
        assert!(!backoff.failed(false, ONE) && !backoff.failed(false, ANOTHER), "within the minute");
        advance(LOG_INTERVAL / 2).await;
        assert!(!backoff.failed(false, ONE), "same reason");
        assert!(backoff.failed(false, ANOTHER));
        assert!(!backoff.failed(false, ONE) && !backoff.failed(false, ANOTHER), "alternating");
        advance(LOG_INTERVAL).await;
        assert!(!backoff.failed(false, ANOTHER) && backoff.failed(false, ONE));
        assert_eq!(backoff.connected(), Some(LOG_INTERVAL * 2));
        advance(STABLE).await;
        assert!(backoff.failed(false, ONE), "another outage");
    }

    #[tokio::test(start_paused = true)]
    async fn backoff_grows_while_the_connection_keeps_breaking() {
        let mut backoff = ReconnectBackoff::new(MAX, Random::system());
        assert_eq!(backoff.connected(), Some(Duration::ZERO));
        assert!(backoff.failed(false, ONE));
        assert_eq!(backoff.connected(), Some(Duration::ZERO));
        for failures in 2..40 {
            assert!(!backoff.failed(false, ONE));
            assert_eq!((backoff.failures, backoff.connected()), (failures, None), "logged once");
        }
        assert!(backoff.wait() >= MAX / 2);
        assert!(backoff.failed(true, ONE), "it settled something");
        assert!(backoff.wait() <= INITIAL * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn wait_after_unreadable_grows_while_nothing_succeeds() {
        let mut backoff = ReconnectBackoff::new(MAX, Random::system());
        let waits: Vec<_> = std::iter::repeat_with(|| {
            _ = backoff.connected();
            backoff.failed(false, ONE);
            backoff.wait_after_unreadable()
        })
        .take(250)
        .collect();
        assert!(waits.is_sorted());
        assert_eq!(
            (waits[0], waits[30], waits[31], waits[249]),
            (UNREADABLE, UNREADABLE, UNREADABLE * 2, MAX)
        );
        assert!(
            waits[..100].iter().sum::<Duration>() < Duration::from_secs(20),
            "the broker counts a hundred deliveries within seconds"
        );
    }
}
