//! Settings that contradict each other: times, numbers and queues.

use std::time::Duration;

use super::{About, CheckGroup, Finding};
use crate::{
    config::Loaded,
    retry,
    stages::{self, deduplicator},
};

/// RabbitMQ's default `consumer_timeout`: it closes the channel of a delivery that is unacknowledged for longer.
const ACK_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// A prefetch above this multiple of the concurrency keeps events from other workers.
const PREFETCH_FACTOR: u32 = 4;
/// Smallest useful `amqp.deliveries_max`: so many workers may crash while a harmless message is in progress.
const DELIVERIES_FEW: u32 = 3;

/// The longest delay for which the alert `InstantConnectHoldsDoNotReturn` is made: it waits 15 minutes.
const ALERTED_DELAY_MAX: Duration = Duration::from_secs(10 * 60);

pub(super) fn all(loaded: &Loaded) -> Vec<Finding> {
    let mut found =
        vec![grace(loaded, "instant_connect.timeout", loaded.config.instant_connect.timeout.get())];
    if loaded.delivers_to_hosts() {
        found.push(grace(loaded, "hosts.timeout", loaded.config.hosts.timeout.get()));
    }
    let connect = &loaded.config.webex_connect;
    if loaded.config.sends_to_guests() {
        found.push(grace(loaded, "webex_connect.timeout", connect.timeout.get()));
        found.push(rate_limit(loaded, "webex_connect", connect.rate_limit_wait.get()));
    }
    found.extend([
        prefetch(loaded),
        delivery_timeout(loaded),
        ack_timeout(loaded),
        delivery_limit(loaded),
        attempts(loaded),
        first_delay(loaded),
        longest_delays(loaded),
        alerted_delays(loaded),
        rate_limit(loaded, "instant_connect", loaded.config.instant_connect.rate_limit_wait.get()),
        queue_length(loaded),
    ]);
    if loaded.delivers_to_hosts() {
        found.push(rate_limit(loaded, "hosts", loaded.config.hosts.rate_limit_wait.get()));
    }
    found
}

fn on(loaded: &Loaded, keys: &[&str]) -> About {
    super::on(CheckGroup::Limits, loaded, keys)
}

fn grace(loaded: &Loaded, key: &str, timeout: Duration) -> Finding {
    let about = on(loaded, &["shutdown.grace", key]);
    let needed = timeout.saturating_add(deduplicator::WRITE_TIME);
    if loaded.config.shutdown.grace.get() >= needed {
        return about.pass("a call in progress can finish and be recorded before a shutdown ends");
    }
    about.warn(
        "a shutdown interrupts calls; their events are requeued unfinished, and another worker processes them again",
        format!("set shutdown.grace to at least {needed:?}, and the orchestrator's termination grace period above that"),
    )
}

fn prefetch(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["amqp.prefetch", "amqp.concurrency"]);
    let (prefetch, concurrency) = (loaded.config.amqp.prefetch.get(), loaded.config.amqp.concurrency.get());
    if prefetch < concurrency {
        return about.warn(
            format!(
                "at most {prefetch} messages are processed at once; the rest of the concurrency stays unused"
            ),
            "set amqp.prefetch to amqp.concurrency or slightly more",
        );
    }
    if prefetch > concurrency.saturating_mul(PREFETCH_FACTOR) {
        return about.warn(
            "each stage prefetches far more messages than it processes, so other workers cannot get them. When the breaker opens \
             they are requeued; RabbitMQ before 4.3 dead-letters a message after 100 requeues",
            "set amqp.prefetch to about amqp.concurrency",
        );
    }
    about.pass("the prefetch matches the concurrency")
}

/// The longest delivery waits for another worker with the same event, checks what was sent before, sends and records the result.
fn delivery_timeout(loaded: &Loaded) -> Finding {
    let mut keys = vec!["amqp.delivery_timeout", "instant_connect.timeout", "hosts.timeout"];
    let config = &loaded.config;
    let mut call = config.instant_connect.timeout.get().max(config.hosts.timeout.get());
    if config.sends_to_guests() {
        keys.push("webex_connect.timeout");
        call = call.max(config.webex_connect.timeout.get());
    }
    let mut needed =
        (deduplicator::PATIENCE + deduplicator::WRITE_TIME).saturating_add(call.saturating_mul(2));
    if config.sends_to_guests() && config.send.rate.get() > 0 {
        keys.push("send.rate");
        needed = needed.saturating_add(stages::PACE_WAIT_MAX);
    }
    let about = on(loaded, &keys);
    if config.amqp.delivery_timeout.get() >= needed {
        return about.pass("a hanging call times out before its delivery does");
    }
    about.warn(
        "a hanging call may use up the whole delivery timeout: the delivery is then requeued repeatedly until its \
         session ends",
        format!("set amqp.delivery_timeout to at least {needed:?}"),
    )
}

fn ack_timeout(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["amqp.delivery_timeout", "amqp.timeout"]);
    let age = loaded.config.consumer_limits().work_age_max();
    if age < ACK_TIMEOUT {
        return about.pass(format!(
            "work in progress is requeued after at most {age:?}, before RabbitMQ's default acknowledgement timeout of {ACK_TIMEOUT:?}"
        ));
    }
    about.warn(
        format!(
            "a delivery may stay in progress for {age:?}; RabbitMQ closes its channel after {ACK_TIMEOUT:?} (the default \
             consumer_timeout) and redelivers all messages of the stage"
        ),
        "set amqp.delivery_timeout well below the broker's consumer_timeout, or raise consumer_timeout",
    )
}

fn delivery_limit(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["amqp.deliveries_max"]);
    let most = loaded.config.amqp.deliveries_max.get();
    if most < DELIVERIES_FEW {
        return about.warn(
            "a few worker crashes turn a message in progress into a dead letter (poison)",
            "set amqp.deliveries_max to 3 or more (default 20)",
        );
    }
    about.pass("below the broker's own limit of 100, so the dead letter states its reason")
}

fn attempts(loaded: &Loaded) -> Finding {
    let policy = &loaded.config.retry;
    let lifetime = loaded.config.instant_connect.link_lifetime.get();
    let keys = ["retry.attempts", "retry.initial", "retry.multiplier", "retry.max", "retry.total"];
    let about = on(loaded, &[&keys[..], &["instant_connect.link_lifetime"]].concat());
    if policy.attempts == 1 {
        return about.warn(
            "nothing is retried: every temporary failure makes a dead letter",
            "set retry.attempts to 2 or more (default 8)",
        );
    }
    let mut waited = Duration::ZERO;
    for (fit, wait) in (1..).zip(retry::waits(policy)) {
        waited = waited.saturating_add(wait);
        if waited > policy.total || waited >= lifetime {
            let end = if waited >= lifetime { "instant_connect.link_lifetime" } else { "retry.total" };
            return about.warn(
                format!(
                    "of {} attempts only {fit} fit within {end}; the rest can never happen",
                    policy.attempts
                ),
                format!("lower retry.attempts, retry.initial or retry.multiplier, or raise {end}"),
            );
        }
    }
    about.pass(format!("all attempts happen within about {waited:?}"))
}

fn first_delay(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["retry.initial", "retry.delays"]);
    let initial = loaded.config.retry.initial;
    match loaded.config.retry.delays.as_slice().first() {
        Some(first) if *first >= initial.saturating_mul(2) => about.warn(
            format!(
                "the shortest delay queue returns a message after {first:?}, so the first retry waits that long"
            ),
            "start retry.delays with retry.initial",
        ),
        _ => about.pass("a delay queue matches the first retry"),
    }
}

/// A delay is used only if the session has more time left; see `retry::delay_for`.
fn longest_delays(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["retry.delays", "instant_connect.link_lifetime"]);
    let lifetime = loaded.config.instant_connect.link_lifetime.get();
    let delays = loaded.config.retry.delays.as_slice();
    let late = delays.iter().filter(|delay| **delay >= lifetime).count();
    if late == 0 {
        return about.pass("each delay queue returns messages before their links expire");
    }
    let advice = "keep each value of retry.delays below instant_connect.link_lifetime";
    if late == delays.len() {
        return about.fail("delay queues return messages only after their sessions have ended", advice);
    }
    about.warn(
        format!(
            "delay queues used only by events with an expiresAt beyond link_lifetime: {late} of {}",
            delays.len()
        ),
        advice,
    )
}

fn alerted_delays(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["retry.delays"]);
    match loaded.config.retry.delays.as_slice().last() {
        Some(longest) if *longest > ALERTED_DELAY_MAX => about.warn(
            format!("the alert InstantConnectHoldsDoNotReturn fires although nothing is wrong: messages may wait for {longest:?}"),
            "keep each value of retry.delays at 10m or below, or widen the windows of the alert",
        ),
        _ => about.pass("the alert InstantConnectHoldsDoNotReturn fits the longest delay"),
    }
}

fn rate_limit(loaded: &Loaded, section: &str, wait: Duration) -> Finding {
    let key = format!("{section}.rate_limit_wait");
    let about = on(loaded, &[&key, "instant_connect.link_lifetime"]);
    if wait < loaded.config.instant_connect.link_lifetime.get() {
        return about.pass("rate-limited calls are retried before the session ends");
    }
    about.warn(
        "a 429 without Retry-After expires the event immediately",
        format!("set {key} to a few seconds"),
    )
}

fn queue_length(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["topology.queue_length_max", "amqp.prefetch"]);
    if loaded.config.topology.queue_length_max.get() >= loaded.config.amqp.prefetch.get() {
        return about.pass("a delay queue has room for all messages in progress");
    }
    about.warn(
        "if all messages in progress fail at once, the delay queue overflows and the rest is redelivered without \
         delay",
        "raise topology.queue_length_max (existing queues must be deleted and declared again: stop the workers first)",
    )
}
