//! How tries to connect follow each other, and when a missing connection is said.

use std::time::Duration;

use tokio::time::Instant;

use super::connection::Reason;
use crate::retry;

/// The first wait between two tries.
const INITIAL: Duration = Duration::from_millis(100);
/// What lasts this long has worked.
const STABLE: Duration = Duration::from_secs(5);
/// The least time between two log lines about one outage: what the tries find may alternate, as with nodes of which each fails
/// in its own way.
const SAID_AGAIN: Duration = Duration::from_secs(60);
/// The wait while each connection breaks on a message that can't be read: the broker counts these deliveries, and puts the
/// message aside at its limit.
const UNREADABLE: Duration = Duration::from_millis(50);
/// After so many in a row no broker counts, and the wait doubles.
const UNREADABLE_TRIES: u32 = 32;

/// The waits of one connection. What broke soon after it began has not worked.
#[derive(Debug)]
pub struct ReconnectBackoff {
    max: Duration,
    /// Failures in a row.
    tries: u32,
    /// Since when the connection stands.
    connected_at: Option<Instant>,
    /// Since when there is none that worked.
    down_since: Option<Instant>,
    /// What the log said last of this outage.
    said: Option<(Reason, Instant)>,
    /// The log says that it works.
    is_up: bool,
}

impl ReconnectBackoff {
    /// Waits of at most `max`.
    #[must_use]
    pub const fn new(max: Duration) -> Self {
        Self { max, tries: 0, connected_at: None, down_since: None, said: None, is_up: false }
    }

    /// The connection stands. How long there was none, if that is to be said: it is not of one that keeps breaking.
    pub fn connected(&mut self) -> Option<Duration> {
        self.connected_at = Some(Instant::now());
        let took = self.down_since.map_or(Duration::ZERO, |since| since.elapsed());
        (!std::mem::replace(&mut self.is_up, true)).then_some(took)
    }

    /// There is no connection, for this reason, after one that had `worked` or lasted, or not. Whether that is to be said: at
    /// once, then if the reason is another one, but once a minute at most.
    pub fn failed(&mut self, worked: bool, reason: Reason) -> bool {
        let now = Instant::now();
        let lasted = self.connected_at.take().is_some_and(|since| now - since >= STABLE);
        if worked || lasted {
            (self.tries, self.said, self.down_since) = (0, None, None);
        }
        self.tries = self.tries.saturating_add(1);
        self.down_since.get_or_insert(now);
        let is_news = self.said.is_none_or(|(said, at)| said != reason && now - at >= SAID_AGAIN);
        if is_news {
            (self.said, self.is_up) = (Some((reason, now)), false);
        }
        is_news
    }

    /// The wait before the next try.
    #[must_use]
    pub fn wait(&self) -> Duration {
        retry::reconnect_wait(INITIAL, self.max, self.tries, fastrand::f64())
    }

    /// The wait after a message that can't be read.
    #[must_use]
    pub fn wait_after_unreadable(&self) -> Duration {
        let doubled = 1u32.checked_shl(self.tries / UNREADABLE_TRIES).unwrap_or(u32::MAX);
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
    async fn outage_is_said_at_once_and_for_a_new_reason_once_a_minute() {
        let mut backoff = ReconnectBackoff::new(MAX);
        assert!(backoff.failed(false, ONE));
        advance(SAID_AGAIN / 2).await;
        assert!(!backoff.failed(false, ONE) && !backoff.failed(false, ANOTHER), "within the minute");
        advance(SAID_AGAIN / 2).await;
        assert!(!backoff.failed(false, ONE), "nothing new");
        assert!(backoff.failed(false, ANOTHER));
        assert!(!backoff.failed(false, ONE) && !backoff.failed(false, ANOTHER), "alternating");
        advance(SAID_AGAIN).await;
        assert!(!backoff.failed(false, ANOTHER) && backoff.failed(false, ONE));
        assert_eq!(backoff.connected(), Some(SAID_AGAIN * 2));
        advance(STABLE).await;
        assert!(backoff.failed(false, ONE), "another outage");
    }

    #[tokio::test(start_paused = true)]
    async fn connection_that_keeps_breaking_has_not_worked() {
        let mut backoff = ReconnectBackoff::new(MAX);
        assert_eq!(backoff.connected(), Some(Duration::ZERO));
        assert!(backoff.failed(false, ONE));
        assert_eq!(backoff.connected(), Some(Duration::ZERO));
        for tries in 2..40 {
            assert!(!backoff.failed(false, ONE));
            assert_eq!((backoff.tries, backoff.connected()), (tries, None), "said once");
        }
        assert!(backoff.wait() >= MAX / 2);
        assert!(backoff.failed(true, ONE), "it settled something");
        assert!(backoff.wait() <= INITIAL * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn every_wait_grows_while_nothing_succeeds() {
        let mut backoff = ReconnectBackoff::new(MAX);
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
            "a hundred deliveries are soon counted"
        );
    }
}
