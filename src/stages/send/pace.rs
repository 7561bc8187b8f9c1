//! Pace of a channel (`send.rate`), which keeps the worker below the tenant's limit. Webex Connect publishes no limit and sends no
//! `Retry-After`, so this is the only way not to exceed it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use super::{GuestSender, SendStage};
use crate::outcome::{Cause, Failure, Outcome};

/// Longest wait of a message for its turn while it is being processed.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(30);

/// Gives each message a turn, one after the other in equal intervals.
#[derive(Debug)]
pub(super) struct SendPace {
    interval: Duration,
    /// The next free turn.
    next: Mutex<Option<Instant>>,
}

impl SendPace {
    /// A pace of `rate` messages per second.
    pub(super) fn new(rate: u32) -> Self {
        Self { interval: Duration::from_secs(1) / rate.max(1), next: Mutex::default() }
    }

    /// Takes the next turn, or returns the time until it if that is too long.
    fn take(&self) -> Result<Instant, Duration> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let turn = next.map_or(now, |next| next.max(now));
        let wait = turn.duration_since(now);
        if wait > WAIT_MAX {
            return Err(wait);
        }
        *next = turn.checked_add(self.interval);
        Ok(turn)
    }
}

impl<C: GuestSender> SendStage<C> {
    /// Waits for the message's turn.
    ///
    /// # Errors
    /// The outcome of a message that would wait for too long, or until the worker has stopped.
    pub(super) async fn await_turn(&self) -> Result<(), Outcome> {
        let Some(pace) = &self.pace else { return Ok(()) };
        let (reason, wait) = match pace.take() {
            Ok(turn) => {
                tokio::select! {
                    biased;
                    // A call that began now could be cut by the end of the shutdown.
                    () = self.stop.cancelled() => ("the worker stops", Duration::from_secs(1)),
                    () = sleep_until(turn) => return Ok(()),
                }
            }
            Err(wait) => ("more messages wait than send.rate allows", wait),
        };
        // Neither is a failure or a limit of the API, which the breaker would count.
        Err(Outcome::TryAgain(Failure {
            cause: Cause::Busy,
            reason: reason.to_owned(),
            retry_after: Some(wait),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_are_equally_far_apart_and_idle_time_saves_none() {
        let (pace, start) = (SendPace::new(4), Instant::now());
        let waits = || [(); 3].map(|()| pace.take().unwrap().duration_since(start).as_millis());
        assert_eq!(waits(), [0, 250, 500]);
        sleep_until(start + Duration::from_secs(10)).await;
        assert_eq!(waits(), [10_000, 10_250, 10_500]);
    }

    #[tokio::test(start_paused = true)]
    async fn wait_for_a_turn_has_a_limit() {
        let pace = SendPace::new(1);
        let taken = (0..100).filter(|_| pace.take().is_ok()).count();
        assert_eq!(taken, 31);
        let wait = pace.take().unwrap_err();
        assert_eq!(wait, WAIT_MAX + Duration::from_secs(1), "a refused turn is not taken");
    }
}
