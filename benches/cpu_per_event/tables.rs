//! The results as Markdown tables. The first contender is the baseline of the ratios.

use std::fmt::{self, Write};

use super::{
    latency::Latency,
    report::{Costs, Rounds},
    starts::Starts,
    stats::{Percentiles, Spread},
};

/// The costs with one delay.
pub(crate) fn rounds(rounds: &Rounds) -> String {
    let Rounds { delay_ms, concurrency, events, contenders } = rounds;
    let mut table = format!(
        "| {events} events, {delay_ms} ms per call, {concurrency} at once, median (min–max) of {} rounds | events/s | ratio | CPU per event, µs \
         | ratio | context switches per event | read and write calls per event (no `send` and `recv`) | peak MiB | end MiB |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        contenders[0].costs.len()
    );
    let baseline = &contenders[0];
    for costs in contenders {
        let (per_second, cpu_us) = (costs.per_second(), costs.cpu_us());
        writeln!(
            table,
            "| {} | {}{} | {} | {} | {} | {:.1} | {} | {:.0} | {:.0} |",
            costs.contender.title,
            per_second.text(0),
            share(rounds, per_second),
            ratio(per_second, baseline.per_second()),
            cpu_us.text(0),
            ratio(cpu_us, baseline.cpu_us()),
            costs.of(|cost| cost.switches).median,
            io_calls(costs),
            costs.of(|cost| cost.peak_mib).median,
            costs.of(|cost| cost.end_mib).median,
        )
        .unwrap();
    }
    table
}

fn ratio(spread: Spread, baseline: Spread) -> String {
    format!("{:.2}", spread.median / baseline.median)
}

/// The share of the throughput that the concurrency allows.
fn share(rounds: &Rounds, per_second: Spread) -> String {
    let of = |limit| format!(", {:.0} % of concurrency / delay", per_second.median / limit * 100.0);
    rounds.limit().map_or_else(String::new, of)
}

fn io_calls(costs: &Costs) -> String {
    let counted = costs.costs.iter().all(|cost| cost.io_calls.is_some());
    let calls = costs.of(|cost| cost.io_calls.unwrap_or_default()).median;
    if counted { format!("{calls:.1}") } else { "not counted".to_owned() }
}

/// The latencies.
pub(crate) fn latencies(latencies: &[Latency]) -> String {
    let Latency { rate, delay_ms, seconds, .. } = &latencies[0];
    let mut table = format!(
        "| {rate} events/s for {seconds} s, {delay_ms} ms per call | events/s reached | event to guest's link, ms, p50 / p95 / p99 \
         | event to expert's message, ms, p50 / p95 / p99 | delay of the publish itself, ms, p50 / p95 / p99 |\n|---|--:|--:|--:|--:|\n"
    );
    for latency in latencies {
        let Latency { contender, reached, guest, expert, publish, .. } = latency;
        let texts = [guest, expert, publish].map(Percentiles::text);
        writeln!(table, "| {} | {reached:.0} | {} |", contender.title, texts.join(" | ")).unwrap();
    }
    table
}

/// The starts.
pub(crate) fn starts(starts: &[Starts]) -> String {
    let count = starts[0].first_event_ms.len();
    let mut table = format!(
        "| median (min–max) of {count} starts | start to first event, ms | memory when idle, MiB |\n|---|--:|--:|\n"
    );
    for starts in starts {
        let [first, idle] =
            [&starts.first_event_ms, &starts.idle_mib].map(|values| Spread::of(values.iter().copied()));
        writeln!(table, "| {} | {} | {} |", starts.contender.title, first.text(0), idle.text(0)).unwrap();
    }
    table
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rate, guest, expert, .. } = self;
        write!(f, "{rate} events/s: guest {} ms, expert {} ms", guest.text(), expert.text())
    }
}

impl fmt::Display for Starts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms to the first event", Spread::of(self.first_event_ms.iter().copied()).text(0))
    }
}
