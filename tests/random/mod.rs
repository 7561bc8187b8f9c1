//! Randomly mangled input from outside: bodies of events and host links, and responses of both APIs. Nothing may
//! panic or hang, and accepted input must be valid.
//!
//! `make bodies` runs ten million bodies and a million responses in an optimised build. The default sizes take
//! seconds.

mod answers;
mod bodies;
mod calls;
#[path = "../../fuzz/checks/retry_after.rs"]
mod fuzz_retry_after;
#[path = "../../fuzz/checks/start_session.rs"]
mod fuzz_start_session;
mod mangle;

use std::{
    env,
    process::exit,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;

const SEED: &str = "ICW_TEST_SEED";
/// Number of cases between two signs of progress.
const CHUNK: u64 = 500;
/// Much longer than one chunk takes on any machine.
const HANGS: Duration = Duration::from_secs(120);

/// The number of cases from the environment, or the default.
fn count(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// The seed of the first case. Each following case has the next number.
fn first_seed() -> u64 {
    env::var(SEED).map_or_else(|_| fastrand::u64(..u64::MAX / 2), |text| text.parse().expect("a number"))
}

/// Prints the seed of its case if the test panics.
struct Case<'a> {
    name: &'a str,
    seed: u64,
}

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}: {SEED}={} starts with this case", self.name, self.seed);
        }
    }
}

/// Prints the totals. Some cases, but not all, must have been accepted.
fn report(name: &str, count: u64, taken: u64, since: Instant) {
    println!("{name}: {count} in {:.1} s, {taken} of them accepted", since.elapsed().as_secs_f64());
    assert!(
        taken > 0 && taken < count,
        "{taken} of {count} cases accepted: too much or too little is mangled"
    );
}

/// Runs `count` cases on all cores. `check` returns true if its input was accepted.
fn try_all(name: &str, count: u64, check: impl Fn(&mut Rng) -> bool + Sync) {
    let first = first_seed();
    println!("{name}: {SEED}={first}");
    let (next, taken) = (AtomicU64::new(0), AtomicU64::new(0));
    let since = Instant::now();
    thread::scope(|scope| {
        let (begun, chunks) = mpsc::channel();
        for _ in 0..thread::available_parallelism().map_or(1, Into::into) {
            let (begun, next, taken, check) = (begun.clone(), &next, &taken, &check);
            scope.spawn(move || {
                loop {
                    let from = next.fetch_add(CHUNK, Ordering::Relaxed);
                    if from >= count || begun.send(from).is_err() {
                        return;
                    }
                    for case in from..count.min(from + CHUNK) {
                        let case = Case { name, seed: first.wrapping_add(case) };
                        let was_taken = check(&mut Rng::with_seed(case.seed));
                        taken.fetch_add(u64::from(was_taken), Ordering::Relaxed);
                    }
                }
            });
        }
        drop(begun);
        let mut last = 0;
        loop {
            match chunks.recv_timeout(HANGS) {
                Ok(from) => last = from,
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    // Only the end of the process can stop a hanging thread.
                    eprintln!("{name}: hangs at {SEED}={} or soon after", first.wrapping_add(last));
                    exit(1);
                }
            }
        }
    });
    report(name, count, taken.into_inner(), since);
}

/// What `make fuzz` runs with chosen input, so that its code is compiled and run here too.
#[test]
fn random_bytes_pass_the_checks_of_the_fuzz_targets() {
    let (name, first) = ("checks of the fuzz targets", first_seed());
    println!("{name}: {SEED}={first}");
    for case in 0..2_000 {
        let case = Case { name, seed: first.wrapping_add(case) };
        let mut random = Rng::with_seed(case.seed);
        let bytes: Vec<u8> = (0..random.usize(..200)).map(|_| random.u8(..)).collect();
        fuzz_start_session::check(&bytes);
        fuzz_retry_after::check((random.i64(..), &String::from_utf8_lossy(&bytes)));
    }
}
