//! CPU time per event, compared with a plain baseline in the same run: `make bench`.
//!
//! Each round processes the same number of events with each contender in turn. Each contender is a separate process
//! that starts with a full queue: the baseline ([`plain`]: the same calls and messages without any of the promises),
//! then the worker with different settings. Compare the ratios of CPU time: machines differ, and the duration of a
//! round depends more on the broker than on the worker.
//!
//! | variable | default | |
//! |---|---|---|
//! | `BENCH_EVENTS` | 5000 | events of a round |
//! | `BENCH_ROUNDS` | 5 | rounds; the table shows medians |
//! | `BENCH_DELAY_MS` | 0 | delay of each response of the APIs; several values by commas |
//! | `BENCH_CONTENDERS` | all but `other` | names of contenders by commas, see [`contender`] |
//! | `BENCH_OTHER` | this build | path of the worker that is the contender `other` |
//! | `BENCH_OTHER_ENV` | | its settings as environment variables, `NAME=VALUE` by commas |
//! | `ICW_AMQP__URL` | a local broker | the broker |
//!
//! The results are also written to `target/bench/latest.json`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a benchmark, run by hand"
)]

mod contender;
mod cost;
mod plain;
mod report;
mod testbed;

use std::env;

use contender::Contender;
use report::Results;
use testbed::Testbed;

fn main() {
    _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let asked = |flag: &str| env::args().any(|argument| argument == flag);
    if asked(plain::FLAG) {
        runtime.block_on(plain::run());
    } else if asked("--bench") {
        runtime.block_on(compare());
    } else {
        println!("`make bench` runs this; as a test it only needs to compile");
    }
}

/// The value of the variable `name`, if it is set and not empty.
fn given(name: &str) -> Option<String> {
    env::var(name).ok().filter(|text| !text.is_empty())
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("expected a number, got {text}"))
}

async fn compare() {
    let events = given("BENCH_EVENTS").map_or(5_000, |text| number(&text));
    let rounds = given("BENCH_ROUNDS").map_or(5, |text| number(&text));
    let contenders = Contender::given();
    let delays = given("BENCH_DELAY_MS").unwrap_or_else(|| "0".to_owned());
    let mut results = Vec::new();
    for delay_ms in delays.split(',').map(number) {
        let mut result = Results::new(delay_ms, events, &contenders);
        for round in 1..=rounds {
            for contender in &contenders {
                let testbed = Testbed::new(delay_ms).await;
                let cost = testbed.serve(contender, events).await;
                eprintln!("{delay_ms} ms, round {round} of {rounds}: {:<34} {cost}", contender.title);
                result.add(contender, cost);
                testbed.clean_up().await;
            }
        }
        println!("{}", result.table());
        results.push(result);
        report::write(&results);
    }
}
