//! Settings that do not go together: times, numbers, queues.

use std::time::Duration;

use super::{Finding, on};
use crate::{
    config::Loaded,
    retry,
    stages::deduplicator,
    worker::{limits, retry_policy},
};

/// How long RabbitMQ has a delivery unacknowledged before it closes the channel, where its `consumer_timeout` does not say.
const ACK_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// A prefetch of more than this many times the concurrency keeps events from others.
const PREFETCH_FACTOR: u32 = 4;
/// As many workers may die while they have a message that is not to blame.
const DELIVERIES_FEW: u32 = 3;

pub(super) fn all(loaded: &Loaded) -> Vec<Finding> {
    let mut found =
        vec![grace(loaded, "instant_connect.timeout", loaded.config.instant_connect.timeout.get())];
    if loaded.delivers_to_hosts() {
        found.push(grace(loaded, "hosts.timeout", loaded.config.hosts.timeout.get()));
    }
    found.extend([
        permits(loaded),
        overdue(loaded),
        acknowledgement(loaded),
        deliveries(loaded),
        attempts(loaded),
        first_rung(loaded),
        last_rungs(loaded),
        rate_limit(loaded, "instant_connect", loaded.config.instant_connect.rate_limit_wait.get()),
        length(loaded),
    ]);
    if loaded.delivers_to_hosts() {
        found.push(rate_limit(loaded, "hosts", loaded.config.hosts.rate_limit_wait.get()));
    }
    found
}

fn grace(loaded: &Loaded, key: &str, timeout: Duration) -> Finding {
    let about = on(loaded, &["shutdown.grace", key]);
    let needed = timeout.saturating_add(deduplicator::WRITE_TIME);
    if loaded.config.shutdown.grace.get() >= needed {
        return about.pass("a call that has begun can end, and be written down, before a shutdown does");
    }
    about.warn(
        "a shutdown cuts calls off; their events are given back unfinished, and served again by the next worker",
        format!("set shutdown.grace to {needed:?} or more, and the orchestrator's own limit to more than that"),
    )
}

fn permits(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["amqp.prefetch", "amqp.concurrency"]);
    let (prefetch, concurrency) = (loaded.config.amqp.prefetch.get(), loaded.config.amqp.concurrency.get());
    if prefetch < concurrency {
        return about.warn(
            format!(
                "no more than {prefetch} messages are ever worked on at once; the other permits stay idle"
            ),
            "set amqp.prefetch to amqp.concurrency, or somewhat more",
        );
    }
    if prefetch > concurrency.saturating_mul(PREFETCH_FACTOR) {
        return about.warn(
            "each stage holds far more messages than it works on; other workers can't take those, and they grow old towards \
             the broker's acknowledgement timeout. Whenever the breaker opens they are given back, which RabbitMQ before 4.3 \
             counts: after a hundred times it dead-letters one, though nobody ever worked on it",
            "set amqp.prefetch to about amqp.concurrency",
        );
    }
    about.pass("as many messages are held as are worked on, and not many more")
}

/// A delivery may wait for another worker with the same event, look what was sent before, then send, and write that down.
fn overdue(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["amqp.delivery_timeout", "instant_connect.timeout", "hosts.timeout"]);
    let config = &loaded.config;
    let call = config.instant_connect.timeout.get().max(config.hosts.timeout.get());
    let needed = (deduplicator::PATIENCE + deduplicator::WRITE_TIME).saturating_add(call.saturating_mul(2));
    if config.amqp.delivery_timeout.get() >= needed {
        return about.pass("calls that hang end before the time for their delivery does");
    }
    about.warn(
        "a call that hangs may end with the time for its delivery: it is given back, again and again, until its \
         session is over",
        format!("set amqp.delivery_timeout to {needed:?} or more"),
    )
}

fn acknowledgement(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["amqp.delivery_timeout", "amqp.timeout"]);
    let age = limits(loaded).work_age_max();
    if age < ACK_TIMEOUT {
        return about.pass(format!(
            "work is given back after {age:?} at most, before RabbitMQ's default of {ACK_TIMEOUT:?}"
        ));
    }
    about.warn(
        format!(
            "work may be kept for {age:?}; RabbitMQ closes the channel after {ACK_TIMEOUT:?}, where its consumer_timeout \
             does not say otherwise, and all that the stage holds is delivered again"
        ),
        "set amqp.delivery_timeout well below the broker's consumer_timeout, or raise that",
    )
}

fn deliveries(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["amqp.deliveries_max"]);
    let most = loaded.config.amqp.deliveries_max.get();
    if most < DELIVERIES_FEW {
        return about.warn(
            "a message that was in progress while a worker died is soon a dead letter (poison)",
            "set amqp.deliveries_max to 3 or more; 20 is the default",
        );
    }
    about.pass("below the broker's own limit of 100, so that the dead letter says why")
}

fn attempts(loaded: &Loaded) -> Finding {
    let policy = retry_policy(loaded);
    let lifetime = loaded.config.instant_connect.link_lifetime.get();
    let keys = ["retry.attempts", "retry.initial", "retry.multiplier", "retry.max", "retry.total"];
    let about = on(loaded, &[&keys[..], &["instant_connect.link_lifetime"]].concat());
    if policy.attempts == 1 {
        return about.warn(
            "nothing is tried again: every failure that would pass makes a dead letter",
            "set retry.attempts to 2 or more; 8 is the default",
        );
    }
    let mut waited = Duration::ZERO;
    for (fit, wait) in (1..).zip(retry::waits(&policy)) {
        waited = waited.saturating_add(wait);
        if waited > policy.total || waited >= lifetime {
            let end = if waited >= lifetime { "instant_connect.link_lifetime" } else { "retry.total" };
            return about.warn(
                format!(
                    "of {} attempts only {fit} fit into {end}, so that the last ones are never made",
                    policy.attempts
                ),
                format!("lower retry.attempts or the waits between them, or raise {end}"),
            );
        }
    }
    about.pass(format!("all attempts are made within about {waited:?}"))
}

fn first_rung(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["retry.initial", "retry.delays"]);
    let initial = loaded.config.retry.initial.get();
    match loaded.config.retry.delays.as_slice().first() {
        Some(first) if *first >= initial.saturating_mul(2) => about.warn(
            format!(
                "no hold queue brings a message back sooner than after {first:?}: that is the first wait"
            ),
            "begin retry.delays with retry.initial",
        ),
        _ => about.pass("the first wait has its hold queue"),
    }
}

/// A rung is used while the session has more time left than that; see `retry::rung`.
fn last_rungs(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["retry.delays", "instant_connect.link_lifetime"]);
    let lifetime = loaded.config.instant_connect.link_lifetime.get();
    let delays = loaded.config.retry.delays.as_slice();
    let late = delays.iter().filter(|delay| **delay >= lifetime).count();
    if late == 0 {
        return about.pass("each hold queue brings messages back while their links can live");
    }
    let advice = "keep each of retry.delays below instant_connect.link_lifetime";
    if late == delays.len() {
        return about.fail("a message that is held comes back when its session is over", advice);
    }
    about.warn(
        format!("{late} of the hold queues are for events alone that name a later end themselves"),
        advice,
    )
}

fn rate_limit(loaded: &Loaded, section: &str, wait: Duration) -> Finding {
    let key = format!("{section}.rate_limit_wait");
    let about = on(loaded, &[&key, "instant_connect.link_lifetime"]);
    if wait < loaded.config.instant_connect.link_lifetime.get() {
        return about.pass("what was refused for its rate is tried again in time");
    }
    about.warn(
        "an event that meets a 429 without Retry-After is given up as expired at once",
        format!("set {key} to seconds"),
    )
}

fn length(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["topology.queue_length_max", "amqp.prefetch"]);
    if loaded.config.topology.queue_length_max.get() >= loaded.config.amqp.prefetch.get() {
        return about.pass("a hold queue has room for all that is in progress");
    }
    about.warn(
        "when all that is in progress fails at once, its hold queue is full; the rest goes round without a wait",
        "raise topology.queue_length_max (queues that are there have to be declared anew)",
    )
}
