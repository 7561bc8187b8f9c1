//! Many seeds, and named tests for seeds that failed before.

use std::{
    collections::BTreeMap,
    env, fs,
    io::Write as _,
    num::NonZero,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use instant_connect_worker::telemetry::metrics::Metrics;

use super::history::{SimulatedHistory, WITH_SENDERS, run, run_with};

/// Number of seeds in the normal test run.
const SEEDS: u64 = 1000;

fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().filter(|text| !text.is_empty()).map(|text| text.parse().unwrap())
}

fn one(seed: u64) -> SimulatedHistory {
    let folder = tempfile::tempdir().unwrap();
    run(seed, folder.path(), false).unwrap()
}

/// `ICW_SIM_SEED` runs one seed and prints all its steps. Otherwise `ICW_SIM_SEEDS` seeds run, from `ICW_SIM_FIRST`.
/// `ICW_SIM_HASHES` names a file for the hash of each history: a change that must not change behaviour keeps all of
/// them.
#[test]
#[allow(clippy::print_stdout, reason = "the totals are the result of the run")]
fn simulation_of_many_seeds() {
    if let Some(seed) = setting("ICW_SIM_SEED") {
        let folder = tempfile::tempdir().unwrap();
        run(seed, folder.path(), true).unwrap();
        return;
    }
    let (first, seeds) = (setting("ICW_SIM_FIRST").unwrap_or(0), setting("ICW_SIM_SEEDS").unwrap_or(SEEDS));
    let (next, begun) = (AtomicU64::new(first), Instant::now());
    let hashes = env::var("ICW_SIM_HASHES").ok().map(|path| Mutex::new(fs::File::create(path).unwrap()));
    let live = || {
        let folder = tempfile::tempdir().unwrap();
        let mut counts = BTreeMap::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                return counts;
            }
            // Every second history is one with senders.
            let kinds = if seed < WITH_SENDERS && seed % 2 == 0 { &[0, WITH_SENDERS][..] } else { &[0] };
            for seed in kinds.iter().map(|kind| kind + seed) {
                let history = run(seed, folder.path(), false).unwrap_or_else(|broken| {
                    // The other threads end too.
                    next.store(first + seeds, Ordering::Relaxed);
                    panic!("{broken:?}");
                });
                if let Some(file) = &hashes {
                    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                    writeln!(file, "{seed} {:016x}", history.hash).unwrap();
                }
                for (what, count) in history.counts {
                    *counts.entry(what).or_insert(0) += count;
                }
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
    println!("{seeds} seeds from {first} in {:?}: {all:#?}", begun.elapsed());
}

/// The session ended while the stage waited for the ledger, and a call was made with no time left.
#[test]
fn call_is_not_started_with_no_time_left() {
    for seed in [16, 20] {
        one(seed);
    }
}

/// Duplicate host messages were answered from the ledger, which closed the breaker although the API was down.
#[test]
fn duplicate_message_does_not_close_breaker_during_outage() {
    one(5915);
}

/// Workers that died between a confirm and its ack left many copies. Their deliveries looked like a loop.
#[test]
fn copies_left_by_crashes_are_not_reported_as_a_loop() {
    for seed in [2873, 6941] {
        one(seed);
    }
}

/// If the second call for a large session failed or was deferred, the first call was repeated, including its devices.
#[test]
fn devices_are_called_once_when_a_later_call_of_a_session_fails() {
    for seed in [25572, 43065] {
        one(seed);
    }
}

/// A copy for the next attempt waited for the broker until the session had ended.
#[test]
fn retry_copy_delayed_by_the_broker_is_not_reported_as_late() {
    one(93970);
}

/// A publish for a delivery that was taken back was counted for the next delivery.
#[test]
fn publish_of_a_lost_delivery_is_unknown_to_the_next_delivery() {
    one(54334);
}

/// Attempts were counted for an outage that affected one event several times, or before the breaker opened.
#[test]
fn possible_api_failure_is_not_counted_as_attempt() {
    for seed in [1, 5, 8] {
        one(seed);
    }
}

/// Calls that were cut off by their session's end opened the breaker.
#[test]
fn call_cut_off_by_session_end_is_not_an_api_failure() {
    for seed in [2, 6] {
        one(seed);
    }
}

/// A successful probe closed the breaker during a Retry-After.
#[test]
fn breaker_stays_open_during_retry_after() {
    one(11);
}

/// One event that always got a Retry-After stopped all others: with a 423 each time, with a 429 after the first ones.
#[test]
fn retry_after_of_one_event_does_not_stop_others() {
    for seed in [5, 17, 1, 13] {
        one(seed);
    }
}

/// A list request got no response in time, which counted as the end of the session: the expert got no message.
#[test]
fn unanswered_list_request_does_not_end_the_session() {
    for seed in [205, 637] {
        one(seed);
    }
}

/// Any failures in a row opened the breaker: one event that always failed stopped all others by itself.
#[test]
fn event_that_always_fails_stops_no_other() {
    for seed in [13, 17, 45, 49, 73, 85] {
        one(seed);
    }
}

/// Copies of one slow event waited for their turn with the permits of all others.
#[test]
fn copies_of_a_slow_event_delay_no_other() {
    for seed in [1, 13, 37] {
        one(seed);
    }
}

/// What the worker itself gave back counted as workers that died, while nothing could be published.
#[test]
fn outage_of_publishing_makes_no_event_poison() {
    for seed in [103, 135, 151, 167, 279] {
        one(seed);
    }
}

/// A worker that was started again called an API that had asked the one before it to wait.
#[test]
fn retry_after_outlives_the_worker_that_met_it() {
    for seed in [110, 133, 148] {
        one(seed);
    }
}

/// Each copy of an event whose wait outlasted its session was called again and again in the last seconds of the session.
#[test]
fn copies_of_an_event_share_its_last_attempts() {
    one(29690);
}

/// The rules counted a look as a served call, and a Retry-After as over that the worker learned late from a slow ledger, or that
/// the ledger keeps less exactly than it was set.
#[test]
fn rules_know_a_retry_after_as_the_worker_does() {
    for seed in [3978, 10264, 37480] {
        one(seed);
    }
}

/// The rules forgot workers that died at work on a delivery whose connection had broken, or on another event of the same id,
/// and tries that a slow ledger kept although their worker had ended them.
#[test]
fn every_worker_that_died_over_an_event_counts() {
    for seed in [14015, 16599, 25159] {
        one(seed);
    }
}

/// One event had failed alone for two minutes. The rules knew at once that another one was served, the worker did not.
#[test]
fn few_events_open_the_breaker_until_a_success_is_known() {
    one(20525);
}

/// During an alarm, failures became so old that the rules forgot them with a success that the worker did not know yet.
#[test]
fn success_ends_old_failures_once_the_worker_knows_it() {
    one(2354);
}

/// A Retry-After that came during the pause before a probe delayed the probe itself. All other messages were consumed at once.
#[test]
fn probe_before_its_time_is_not_taken_for_a_backlog() {
    one(566);
}

#[test]
fn seed_gives_the_same_history_twice() {
    for seed in (0..20).chain(WITH_SENDERS..WITH_SENDERS + 20) {
        assert_eq!(one(seed).hash, one(seed).hash, "seed {seed}");
    }
}

/// The metrics are written and never read, so a worker without them takes the same steps.
#[test]
fn seed_gives_the_same_history_without_metrics() {
    let folder = tempfile::tempdir().unwrap();
    for seed in 0..25 {
        let without = run_with(seed, folder.path(), false, Some(Metrics::off())).unwrap();
        assert_eq!(one(seed).hash, without.hash, "seed {seed}");
    }
}
