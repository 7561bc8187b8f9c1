//! Many seeds, and those with a name.

use std::{
    collections::BTreeMap,
    env,
    num::NonZero,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};

use super::{SimulatedHistory, run};

/// How many seeds are part of all tests.
const SEEDS: u64 = 1000;

fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().filter(|text| !text.is_empty()).map(|text| text.parse().unwrap())
}

fn one(seed: u64) -> SimulatedHistory {
    let folder = tempfile::tempdir().unwrap();
    run(seed, folder.path(), false).unwrap()
}

/// `ICW_SIM_SEED` runs one seed and shows all its steps; otherwise `ICW_SIM_SEEDS` from `ICW_SIM_FIRST` on.
#[test]
#[allow(clippy::print_stdout, reason = "what many seeds came to is their result")]
fn simulation_of_many_seeds() {
    if let Some(seed) = setting("ICW_SIM_SEED") {
        let folder = tempfile::tempdir().unwrap();
        run(seed, folder.path(), true).unwrap();
        return;
    }
    let (first, seeds) = (setting("ICW_SIM_FIRST").unwrap_or(0), setting("ICW_SIM_SEEDS").unwrap_or(SEEDS));
    let (next, begun) = (AtomicU64::new(first), Instant::now());
    let live = || {
        let folder = tempfile::tempdir().unwrap();
        let mut counts = BTreeMap::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                return counts;
            }
            let history = run(seed, folder.path(), false).unwrap();
            for (what, count) in history.counts {
                *counts.entry(what).or_insert(0) += count;
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let all = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(live)).collect();
        threads.into_iter().fold(BTreeMap::<_, u64>::new(), |mut all, thread| {
            for (what, count) in thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                *all.entry(what).or_default() += count;
            }
            all
        })
    });
    println!("{seeds} seeds from {first} on in {:?}: {all:#?}", begun.elapsed());
}

/// A stage's wait for the ledger ended with its session, and the call began with no time left for it.
#[test]
fn no_call_begins_with_no_time_left() {
    for seed in [16, 20] {
        one(seed);
    }
}

/// Hosts' messages that came twice were answered from the ledger, which closed the breaker of an API that was down.
#[test]
fn an_outage_is_not_asked_again_for_every_message_that_comes_twice() {
    one(5915);
}

/// Workers that died between a confirm and its ack left so many copies that their deliveries looked like one that spins.
#[test]
fn copies_that_deaths_left_do_not_spin() {
    for seed in [2873, 6941] {
        one(seed);
    }
}

/// Where the second call of a session of many people failed or was put off, the first was made again, devices and all.
#[test]
fn devices_are_not_called_again_for_more_people_than_one_call_serves() {
    for seed in [25572, 43065] {
        one(seed);
    }
}

/// A copy for the next attempt waited for the broker until the session was over.
#[test]
fn a_copy_that_waited_for_the_broker_is_not_late() {
    one(93970);
}

/// What was published for a delivery that was taken back counted for the next one.
#[test]
fn what_is_published_for_a_delivery_that_is_gone_is_not_known_to_the_next() {
    one(54334);
}

/// Of an outage that met one event again and again, or before the breaker opened, attempts were counted.
#[test]
fn no_attempt_is_counted_that_may_be_the_apis_failure() {
    for seed in [1, 5, 8] {
        one(seed);
    }
}

/// Calls that their session's end cut off opened the breaker.
#[test]
fn call_that_its_sessions_end_cuts_off_is_no_failure_of_the_api() {
    for seed in [2, 6] {
        one(seed);
    }
}

/// A probe that worked closed the breaker while a Retry-After ran.
#[test]
fn breaker_is_not_closed_while_no_call_may_be_made() {
    one(11);
}

/// One event that always met a Retry-After stopped all others: a 423 each time, a 429 after the first ones.
#[test]
fn retry_after_of_one_event_stops_no_other() {
    for seed in [5, 17, 1, 13] {
        one(seed);
    }
}

/// A look at what was sent got no answer in time, which counted as the end of the session: the expert was never told.
#[test]
fn look_without_an_answer_ends_no_session() {
    for seed in [205, 637] {
        one(seed);
    }
}

/// A call that was refused during a Retry-After ended its claim in a slow ledger, and the breaker learned of it after that time.
#[test]
fn breaker_may_learn_of_a_rate_limit_after_its_end() {
    one(3978);
}

#[test]
fn a_seed_is_one_history() {
    for seed in 0..20 {
        assert_eq!(one(seed).hash, one(seed).hash, "seed {seed}");
    }
}
