//! The variables of a run; the table in `main.rs` describes them.

use std::env;

use super::contender::Contender;

/// The variables of a run.
pub(crate) struct Settings {
    pub(crate) events: usize,
    pub(crate) rounds: usize,
    pub(crate) delays_ms: Vec<usize>,
    concurrency: Option<usize>,
    contenders: Vec<Contender>,
    /// `BENCH_CONTENDERS` is set, so these contenders take part in everything.
    chosen: bool,
    /// Events per second of the latencies; empty: by the measured throughput.
    pub(crate) rates: Vec<usize>,
    pub(crate) seconds: usize,
    pub(crate) starts: usize,
}

impl Settings {
    pub(crate) fn given() -> Self {
        let or = |name: &str, default: usize| given(name).map_or(default, |text| number(&text));
        let delays = given("BENCH_DELAY_MS").unwrap_or_else(|| "0,50,300".to_owned());
        let chosen = given("BENCH_CONTENDERS");
        Self {
            events: or("BENCH_EVENTS", 5_000),
            rounds: or("BENCH_ROUNDS", 5),
            delays_ms: delays.split(',').map(number).collect(),
            concurrency: given("BENCH_CONCURRENCY").map(|text| number(&text)),
            contenders: Contender::named(chosen.as_deref().unwrap_or("plain,off,defaults,memory,traces")),
            chosen: chosen.is_some(),
            rates: given("BENCH_RATE").map_or_else(Vec::new, |text| text.split(',').map(number).collect()),
            seconds: or("BENCH_SECONDS", 10),
            starts: or("BENCH_STARTS", 5),
        }
    }

    /// Events in progress in each stage if each response of the APIs takes `delay_ms`.
    pub(crate) fn concurrency(&self, delay_ms: usize) -> usize {
        self.concurrency.unwrap_or(if delay_ms == 0 { 64 } else { 512 })
    }

    /// The contenders of the rounds with `delay_ms`.
    pub(crate) fn contenders(&self, delay_ms: usize) -> Vec<Contender> {
        if delay_ms == self.delays_ms[0] { self.contenders.clone() } else { self.main_contenders() }
    }

    /// The contenders of further delays, latencies and starts.
    pub(crate) fn main_contenders(&self) -> Vec<Contender> {
        self.contenders.iter().filter(|contender| self.chosen || contender.main).cloned().collect()
    }
}

/// The value of the variable `name`, if it is set and not empty.
pub(crate) fn given(name: &str) -> Option<String> {
    env::var(name).ok().filter(|text| !text.is_empty())
}

pub(crate) fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("expected a number, got {text}"))
}
