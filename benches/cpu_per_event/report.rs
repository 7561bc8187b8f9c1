//! The results as a table and as JSON.

use std::{fmt::Write, fs};

use serde_json::{Value, json};

use super::{contender::Contender, cost::Cost};

/// Deliveries that a stage processes at once by default.
const CONCURRENCY: f64 = 32.0;

/// The costs of all rounds with one delay of the APIs.
pub(crate) struct Results {
    delay_ms: usize,
    events: usize,
    costs: Vec<(Contender, Vec<Cost>)>,
}

impl Results {
    pub(crate) fn new(delay_ms: usize, events: usize, contenders: &[Contender]) -> Self {
        let costs = contenders.iter().map(|contender| (contender.clone(), Vec::new())).collect();
        Self { delay_ms, events, costs }
    }

    pub(crate) fn add(&mut self, contender: &Contender, cost: Cost) {
        for (known, costs) in &mut self.costs {
            if known.name == contender.name {
                costs.push(cost);
            }
        }
    }

    /// Medians, as a Markdown table. The first contender is the baseline.
    pub(crate) fn table(&self) -> String {
        let rounds = self.costs[0].1.len();
        let mut table = format!(
            "| {} events, {} ms per call, median of {rounds} rounds | CPU per event | to the first | switches per event | events/s | peak memory | memory at the end |\n|---|---|---|---|---|---|---|\n",
            self.events, self.delay_ms
        );
        let first = median(&self.costs[0].1, |cost| cost.cpu_ms);
        for (contender, costs) in &self.costs {
            let of = |value: fn(&Cost) -> f64| median(costs, value);
            let cpu = of(|cost| cost.cpu_ms);
            let per_second = of(|cost| cost.per_second);
            writeln!(
                table,
                "| {} | {cpu:.3} ms | {:.2} | {:.1} | {per_second:.0}{} | {:.0} MiB | {:.0} MiB |",
                contender.title,
                cpu / first,
                of(|cost| cost.switches),
                self.share_of_limit(per_second),
                of(|cost| cost.peak_mib),
                of(|cost| cost.end_mib),
            )
            .unwrap();
        }
        table
    }

    /// The share of the throughput that the concurrency allows if calls take as long as they do.
    fn share_of_limit(&self, per_second: f64) -> String {
        if self.delay_ms == 0 {
            return String::new();
        }
        let limit = CONCURRENCY * 1e3 / f64::from(u32::try_from(self.delay_ms).unwrap());
        format!(" ({:.0} % of concurrency / delay)", per_second / limit * 100.0)
    }

    fn json(&self) -> Value {
        let contenders: Vec<Value> = (self.costs.iter())
            .map(|(contender, costs)| json!({"name": contender.name, "rounds": costs}))
            .collect();
        json!({"delay_ms": self.delay_ms, "events": self.events, "contenders": contenders})
    }
}

/// Writes all results to `target/bench/latest.json`.
pub(crate) fn write(results: &[Results]) {
    let folder = testkit::program::folder().with_file_name("bench");
    fs::create_dir_all(&folder).unwrap();
    let all: Vec<Value> = results.iter().map(Results::json).collect();
    fs::write(folder.join("latest.json"), serde_json::to_vec_pretty(&all).unwrap()).unwrap();
}

fn median(costs: &[Cost], value: impl Fn(&Cost) -> f64) -> f64 {
    let mut values: Vec<f64> = costs.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
