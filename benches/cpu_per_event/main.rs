//! CPU time, throughput, latency and memory of the worker, compared with a plain baseline in the same run: `make bench`.
//!
//! - **Rounds**: each round processes the same number of events with each contender in turn. Each contender is a
//!   separate process with a queue that is already full: the baseline ([`plain`]: the same calls and messages without any
//!   of the promises), then the worker with different settings. The start of the process and the first events, in which
//!   the connections open, do not count.
//! - **Latencies**: events are published at a steady rate ([`latency`]).
//! - **Starts**: the time until the first event is processed ([`starts`]).
//!
//! The fake APIs ([`fake`]) are another process. Compare the ratios of CPU time: machines differ, and the duration of a
//! round depends more on the broker than on the worker. Everything runs on the same cores, so the throughput is that of
//! contender, broker and fake APIs together.
//!
//! | variable | default | |
//! |---|---|---|
//! | `BENCH_EVENTS` | 5000 | events of a round. The contender is paused while they are published; above some 50000 the broker closes the connection meanwhile |
//! | `BENCH_ROUNDS` | 5 | rounds; the tables show medians |
//! | `BENCH_DELAY_MS` | 0,50,300 | delay of each response of the APIs; several values by commas. The first is also that of the latencies |
//! | `BENCH_CONCURRENCY` | 64, with a delay 512 | `amqp.prefetch` and `amqp.concurrency` |
//! | `BENCH_CONTENDERS` | all but `other` | names of contenders by commas, see [`contender`]. If it is not set, `off` and `traces` take part only in the rounds with the first delay |
//! | `BENCH_OTHER` | this build | path of the worker that is the contender `other` |
//! | `BENCH_OTHER_ENV` | | its settings as environment variables, `NAME=VALUE` by commas |
//! | `BENCH_RATE` | half the throughput of the slowest contender, and of the first | events per second of the latencies; several values by commas |
//! | `BENCH_SECONDS` | 10 | duration of the latencies' measurement; 0: none |
//! | `BENCH_STARTS` | 5 | starts; 0: none |
//! | `ICW_AMQP__URL` | a local broker | the broker |
//!
//! The results are in `target/bench`: `latest.md`, `latest.json`, and plots as SVG. They are written after each part, so an
//! interrupted run has results, too.
//!
//! System calls are counted as far as Linux counts them without root, see [`cost::Cost::io_calls`]. Allocations are not counted: an
//! allocator that counts needs unsafe code, which this project forbids.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a benchmark, run by hand"
)]

mod apis;
mod contender;
mod cost;
mod fake;
mod latency;
mod plain;
mod plot;
mod process;
mod progress;
mod report;
mod settings;
mod starts;
mod stats;
mod tables;
mod testbed;

use std::env;

use latency::Latency;
use progress::Progress;
use report::{Report, Rounds};
use settings::Settings;
use starts::Starts;
use testbed::Testbed;

fn main() {
    _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let arguments: Vec<String> = env::args().collect();
    let asked = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if asked(plain::FLAG) {
        runtime.block_on(plain::run());
    } else if asked(fake::FLAG) {
        runtime.block_on(fake::run(settings::number(&arguments[2]).try_into().unwrap()));
    } else if asked("--bench") {
        runtime.block_on(measure());
    } else {
        println!("`make bench` runs this; as a test it only needs to compile");
    }
}

async fn measure() {
    let settings = Settings::given();
    let mut progress = Progress::new(&settings);
    let mut report = Report::new();
    for &delay_ms in &settings.delays_ms {
        report.rounds.push(rounds(&settings, delay_ms, &mut progress).await);
        report.write();
    }
    if settings.seconds > 0 {
        measure_latencies(&settings, &mut report, &mut progress).await;
    }
    if settings.starts > 0 {
        for contender in settings.main_contenders() {
            let starts = Starts::measure(&contender, settings.concurrency(0), settings.starts).await;
            progress.done(&format!("start, {:<28} {starts}", contender.title));
            report.starts.push(starts);
            report.write();
        }
    }
    println!("{}", report.markdown());
    eprintln!("written to {}", report::folder().display());
}

async fn measure_latencies(settings: &Settings, report: &mut Report, progress: &mut Progress) {
    let delay_ms = settings.delays_ms[0];
    let at = (delay_ms, settings.concurrency(delay_ms));
    let rates = if settings.rates.is_empty() { report.rates().to_vec() } else { settings.rates.clone() };
    for rate in rates {
        for contender in settings.main_contenders() {
            let latency = Latency::measure(&contender, at, (rate, settings.seconds)).await;
            progress.done(&format!("latency, {:<28} {latency}", contender.title));
            report.latencies.push(latency);
            report.write();
        }
    }
}

async fn rounds(settings: &Settings, delay_ms: usize, progress: &mut Progress) -> Rounds {
    let (events, concurrency) = (settings.events, settings.concurrency(delay_ms));
    let contenders = settings.contenders(delay_ms);
    let mut result = Rounds::new(delay_ms, concurrency, events, &contenders);
    for _ in 0..settings.rounds {
        for (contender, result) in contenders.iter().zip(&mut result.contenders) {
            let testbed = Testbed::new(delay_ms, concurrency).await;
            let cost = testbed.serve(contender, events).await;
            progress.done(&format!("{delay_ms} ms, {:<28} {cost}", contender.title));
            result.costs.push(cost);
            testbed.clean_up().await;
        }
    }
    result
}
