//! CPU time per event, compared with a plain baseline in the same run: `make bench`.
//!
//! Each round processes the same number of events with each contender in turn. Each contender is a separate process
//! that starts with a full queue: the baseline ([`plain`]: the same calls and messages without any of the promises),
//! then the worker with telemetry off, with its defaults and a scrape each second, and with traces. Compare the
//! ratios of CPU time: machines differ, and the duration of a round depends more on the broker than on the worker.
//!
//! `BENCH_EVENTS` (5,000) and `BENCH_ROUNDS` (5) set the size; `ICW_AMQP__URL` sets the broker.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a benchmark, run by hand"
)]

mod plain;
mod testbed;

use std::env;

use testbed::{Cost, Testbed};

/// The program that processes the events.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contender {
    Plain,
    Off,
    Defaults,
    Traces,
}

impl Contender {
    const ALL: [Self; 4] = [Self::Plain, Self::Off, Self::Defaults, Self::Traces];

    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain baseline",
            Self::Off => "worker, telemetry off",
            Self::Defaults => "worker, defaults (metrics, logs)",
            Self::Traces => "worker, defaults and traces",
        }
    }

    /// Settings besides the required ones.
    fn settings(self, collector: &str) -> Vec<(&'static str, String)> {
        match self {
            Self::Plain => Vec::new(),
            Self::Off => {
                vec![
                    ("ICW_TELEMETRY__LOG_LEVEL", "error".to_owned()),
                    ("ICW_ADMIN__LISTEN", "off".to_owned()),
                ]
            }
            Self::Defaults => vec![("ICW_ADMIN__LISTEN", testbed::ADMIN.to_owned())],
            Self::Traces => vec![
                ("ICW_ADMIN__LISTEN", testbed::ADMIN.to_owned()),
                ("ICW_TELEMETRY__OTLP_ENDPOINT", collector.to_owned()),
            ],
        }
    }
}

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

fn number(name: &str, default: usize) -> usize {
    env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: expected a number")))
}

async fn compare() {
    let (events, rounds) = (number("BENCH_EVENTS", 5_000), number("BENCH_ROUNDS", 5));
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); Contender::ALL.len()];
    for round in 1..=rounds {
        for (contender, costs) in Contender::ALL.into_iter().zip(&mut costs) {
            let testbed = Testbed::new().await;
            let cost = testbed.serve(contender, events).await;
            eprintln!(
                "round {round} of {rounds}: {:<34} {:6.3} ms CPU per event, {:6.0} events/s, {} MiB",
                contender.name(),
                cost.cpu_ms,
                cost.per_second,
                cost.peak_mib
            );
            costs.push(cost);
            testbed.clean_up().await;
        }
    }
    let medians: Vec<f64> = costs.iter().map(|costs| median(costs.iter().map(|cost| cost.cpu_ms))).collect();
    println!(
        "| {events} events, median of {rounds} rounds | CPU per event | to the baseline | to telemetry off | peak memory |"
    );
    println!("|---|---|---|---|---|");
    for ((contender, costs), cpu) in Contender::ALL.iter().zip(&costs).zip(&medians) {
        println!(
            "| {} | {cpu:.3} ms | {:.2} | {:.2} | {:.0} MiB |",
            contender.name(),
            cpu / medians[0],
            cpu / medians[1],
            median(costs.iter().map(|cost| f64::from(cost.peak_mib)))
        );
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
