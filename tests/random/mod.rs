//! What comes from outside, mangled at random: the bodies of events and of host links, the answers of both APIs. Nothing
//! panics, nothing hangs, and what is taken all the same is good.
//!
//! `make bodies` runs ten million bodies and a million answers in an optimised build; the sizes here take seconds.

mod answers;
mod bodies;
mod calls;
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
/// As many between two signs of life.
const CHUNK: u64 = 500;
/// Far longer than so many take on any machine.
const HANGS: Duration = Duration::from_secs(120);

/// How many, where the environment does not say otherwise.
fn count(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// The seed of the first case; each one after it has the next number.
fn first_seed() -> u64 {
    env::var(SEED).map_or_else(|_| fastrand::u64(..u64::MAX / 2), |text| text.parse().expect("a number"))
}

/// Says the seed of the case under which a test panics.
struct Case<'a> {
    name: &'a str,
    seed: u64,
}

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}: {SEED}={} has this case come first", self.name, self.seed);
        }
    }
}

/// Says how many there were; some, and not all, must have been `taken`.
fn report(name: &str, count: u64, taken: u64, since: Instant) {
    println!("{name}: {count} in {:.1} s, {taken} of them taken", since.elapsed().as_secs_f64());
    assert!(taken > 0 && taken < count, "{taken} of {count} were taken: too much or too little is mangled");
}

/// Tries `count` cases on all cores. `check` says whether what it was given was taken.
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
                    // A thread that hangs can't be ended but with the process.
                    eprintln!("{name}: hangs; {SEED}={} or soon after", first.wrapping_add(last));
                    exit(1);
                }
            }
        }
    });
    report(name, count, taken.into_inner(), since);
}
