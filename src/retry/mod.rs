//! Retry decisions: a pure function of the failure, the attempts so far and the clock. This module alone uses
//! `backoff`, and only for its intervals. The retry loop of `backoff` has no limit of attempts, and lets a
//! Retry-After pass every other limit.

use std::time::Duration;

use backoff::{ExponentialBackoff, backoff::Backoff};
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    outcome::{Cause, Class, Death, Failure},
    values::{self, Bounded, Delays, Factor, Period},
};

/// The configuration section `retry`.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
pub struct RetryPolicy {
    /// The wait after the first failure.
    #[serde(deserialize_with = "values::duration")]
    #[schemars(with = "Period")]
    pub initial: Duration,
    /// The longest wait between two attempts, before jitter.
    #[serde(deserialize_with = "values::duration")]
    #[schemars(with = "Period")]
    pub max: Duration,
    /// Factor from one wait to the next, at least 1.
    #[serde(deserialize_with = "values::factor::<_, 1, 100>")]
    #[schemars(with = "Factor<1, 100>")]
    pub multiplier: f64,
    /// Jitter: fraction, 0 to 1, by which each wait varies in either direction. Events that failed together are then
    /// retried at different times.
    #[serde(deserialize_with = "values::factor::<_, 0, 1>")]
    #[schemars(with = "Factor<0, 1>")]
    pub jitter: f64,
    /// Maximum number of counted attempts, including the first, at least 1.
    #[serde(deserialize_with = "values::whole::<_, 1, 1000>")]
    #[schemars(with = "Bounded<1, 1000>")]
    pub attempts: u32,
    /// Maximum total wait of a message between its counted attempts, even if attempts are left. Time spent in an
    /// outage, under Retry-After or in the queue does not count.
    #[serde(deserialize_with = "values::duration")]
    #[schemars(with = "Period")]
    pub total: Duration,
    /// The delays of the delay queues.
    pub delays: Delays,
}

/// The attempts of a message so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptHistory {
    /// Counted attempts, without the one that just failed.
    pub attempts: u32,
    /// Total wait between counted attempts.
    pub waited: Duration,
}

/// The decision about a failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Try again, not before `at`.
    Again {
        /// The earliest time of the next attempt.
        at: Timestamp,
        /// Counted attempts; includes the one that just failed if it counts.
        attempts: u32,
        /// Total wait between counted attempts; includes this wait if it counts.
        waited: Duration,
    },
    /// Give up.
    GiveUp(Death),
}

/// Decides about `failure` of a message whose session ends at `deadline`. `random` (0 to 1) sets the jitter.
///
/// A wait of `failure`, such as for another worker with the event, costs no attempt. The `Retry-After` of an API does not come here,
/// but to [`postpone`]. A message that can't be retried before the session's deadline is given up as `expired` at once. A message
/// without attempts or time left is given up as `exhausted`.
#[must_use]
pub fn decide(
    policy: &RetryPolicy,
    failure: &Failure,
    history: AttemptHistory,
    deadline: Timestamp,
    now: Timestamp,
    random: f64,
) -> Decision {
    let random = random.clamp(0.0, 1.0);
    let (wait, attempts, waited) = if let Some(asked) = failure.retry_after {
        (asked + jitter(policy.initial, policy.jitter, random), history.attempts, history.waited)
    } else {
        let attempts = history.attempts.saturating_add(1);
        let wait = shortened(wait(policy, attempts, random), policy.initial, deadline, now);
        (wait, attempts, history.waited.saturating_add(wait))
    };
    let at = SignedDuration::try_from(wait)
        .ok()
        .and_then(|wait| now.checked_add(wait).ok())
        .unwrap_or(Timestamp::MAX);
    let give_up =
        |class, why: &str| Decision::GiveUp(Death::new(class, format!("{} ({why})", failure.reason)));
    if at >= deadline {
        return give_up(Class::Expired, "the session ends before the next attempt");
    }
    if attempts >= policy.attempts {
        return give_up(Class::Exhausted, &format!("attempt {attempts} of {}", policy.attempts));
    }
    if waited > policy.total {
        return give_up(Class::Exhausted, "retry.total exceeded");
    }
    Decision::Again { at, attempts, waited }
}

/// `wait`, or half of the session's remaining time if that is shorter: an event is not given up while there is time for another
/// attempt. A wait shorter than `least` is not used.
#[must_use]
pub fn shortened(wait: Duration, least: Duration, deadline: Timestamp, now: Timestamp) -> Duration {
    let left = Duration::try_from(deadline.duration_since(now)).unwrap_or_default();
    if wait >= left && left / 2 >= least { left / 2 } else { wait }
}

/// Decides about `failure` if the API may be the cause. No attempt counts, and the message is retried after `wait`,
/// not before its Retry-After. A rate limit holds for all messages, so such a message is retried exactly at its
/// Retry-After. Only the session's deadline ends the retries.
#[must_use]
pub fn postpone(
    failure: &Failure,
    history: AttemptHistory,
    deadline: Timestamp,
    now: Timestamp,
    wait: Duration,
) -> Decision {
    let wait = match failure.retry_after {
        Some(asked) if failure.cause == Cause::RateLimited => asked,
        asked => wait.max(asked.unwrap_or_default()),
    };
    let at = SignedDuration::try_from(wait)
        .ok()
        .and_then(|wait| now.checked_add(wait).ok())
        .unwrap_or(Timestamp::MAX);
    if at >= deadline {
        let reason = format!("{} (the session ends before the next attempt)", failure.reason);
        return Decision::GiveUp(Death::new(Class::Expired, reason));
    }
    Decision::Again { at, attempts: history.attempts, waited: history.waited }
}

/// Longer than any wait for a next attempt, by five minutes, because the clocks of workers differ. `probe_max` is the longest
/// wait of an event for an API that is down.
#[must_use]
pub fn longest_wait(policy: &RetryPolicy, probe_max: Duration) -> Duration {
    let jitter = policy.jitter.clamp(0.0, 1.0);
    let own = policy.max.max(probe_max).mul_f64(1.0 + jitter);
    let most = (RETRY_AFTER_MAX + policy.initial.mul_f64(jitter)).max(own);
    most.saturating_add(Duration::from_secs(300))
}

/// Maximum delay beyond the wait that a delay queue may add, as a fraction of the wait.
const LATE_MAX: f64 = 0.25;

/// The delay, of the ascending delays of the delay queues, for a message due `at`. This is the smallest delay that is
/// not early, if it is late by at most `LATE_MAX` and ends before the `deadline`. Otherwise it is the largest delay
/// that is not late. The message then returns early and is delayed again or held for the rest of the wait. A wait
/// slightly above a delay must not become the next longer delay.
#[must_use]
pub fn delay_for(
    delays: &[Duration],
    now: Timestamp,
    at: Timestamp,
    deadline: Timestamp,
) -> Option<Duration> {
    let until = |then: Timestamp| Duration::try_from(then.duration_since(now)).unwrap_or_default();
    let (wait, left) = (until(at), until(deadline));
    let most = wait.saturating_add(wait.mul_f64(LATE_MAX));
    let near = delays.iter().find(|delay| (wait..=most).contains(*delay) && **delay < left);
    near.or_else(|| delays.iter().rfind(|delay| **delay <= wait)).or_else(|| delays.first()).copied()
}

/// The wait of a message that is postponed for `wait`, at most `max`, and the delay of its delay queue. The message
/// returns in time, or early and is delayed once more. Both are shorter if only `left` remains of its session.
#[must_use]
pub fn postponed_for(
    delays: &[Duration],
    wait: Duration,
    max: Duration,
    left: Duration,
) -> Option<(Duration, Duration)> {
    if let Some(exact) = delays.iter().find(|delay| (wait..=max).contains(*delay) && **delay < left) {
        return Some((*exact, *exact));
    }
    let shorter = delays.iter().rfind(|delay| **delay <= wait && **delay < left);
    let delay = *shorter.or_else(|| delays.first())?;
    Some((if wait < left { wait.max(delay) } else { delay }, delay))
}

/// The waits after each failure except the last, without jitter.
pub fn waits(policy: &RetryPolicy) -> impl Iterator<Item = Duration> + '_ {
    (1..policy.attempts).map(|attempt| interval(policy.initial, policy.max, policy.multiplier, attempt))
}

/// The wait after attempt number `attempt` (from 1). `random` (0 to 1) sets the jitter.
#[must_use]
pub fn wait(policy: &RetryPolicy, attempt: u32, random: f64) -> Duration {
    spread(
        interval(policy.initial, policy.max, policy.multiplier, attempt),
        policy.jitter,
        random.clamp(0.0, 1.0),
    )
}

/// The wait after attempt number `attempt`, without jitter.
fn interval(initial: Duration, max: Duration, multiplier: f64, attempt: u32) -> Duration {
    let mut schedule = ExponentialBackoff {
        current_interval: initial,
        randomization_factor: 0.0,
        multiplier,
        max_interval: max,
        max_elapsed_time: None,
        ..ExponentialBackoff::default()
    };
    // The schedule reaches its maximum long before 100 steps; a higher count changes nothing.
    (0..attempt.clamp(1, 100)).filter_map(|_| schedule.next_backoff()).last().unwrap_or(max).min(max)
}

/// The wait between attempts to reach our own infrastructure (the broker): no limit of attempts, at most `max`.
#[must_use]
pub fn reconnect_wait(initial: Duration, max: Duration, attempt: u32, random: f64) -> Duration {
    spread(interval(initial, max, 2.0, attempt), 0.5, random.clamp(0.0, 1.0)).min(max)
}

/// `wait`, shifted by up to the fraction `share` in either direction.
fn spread(wait: Duration, share: f64, random: f64) -> Duration {
    wait.mul_f64((1.0 + share * (2.0 * random - 1.0)).max(0.0))
}

/// Up to the fraction `share` of `wait`, for waits that must not become shorter.
fn jitter(wait: Duration, share: f64, random: f64) -> Duration {
    wait.mul_f64((share * random).max(0.0))
}

/// Upper limit of a Retry-After. One response with a Unix time instead of seconds, or a date in another year, would
/// otherwise stop the worker until it is restarted. After this time one message probes again.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
