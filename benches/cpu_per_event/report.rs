//! All results of a run, and the files in `target/bench`.

use std::{fs, path::PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    contender::Contender, cost::Cost, latency::Latency, plot, starts::Starts, stats::Spread, tables,
};

/// All results.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) date: String,
    pub(crate) machine: String,
    pub(crate) rounds: Vec<Rounds>,
    pub(crate) latencies: Vec<Latency>,
    pub(crate) starts: Vec<Starts>,
}

/// The rounds with one delay of the APIs.
#[derive(Serialize)]
pub(crate) struct Rounds {
    pub(crate) delay_ms: usize,
    pub(crate) concurrency: usize,
    pub(crate) events: usize,
    /// The first is the baseline.
    pub(crate) contenders: Vec<Costs>,
}

/// The costs of a contender in each round.
#[derive(Serialize)]
pub(crate) struct Costs {
    #[serde(flatten)]
    pub(crate) contender: Contender,
    pub(crate) costs: Vec<Cost>,
}

impl Costs {
    pub(crate) fn of(&self, value: impl Fn(&Cost) -> f64) -> Spread {
        Spread::of(self.costs.iter().map(value))
    }

    pub(crate) fn per_second(&self) -> Spread {
        self.of(|cost| cost.per_second)
    }

    pub(crate) fn cpu_us(&self) -> Spread {
        self.of(|cost| cost.cpu_us)
    }
}

impl Rounds {
    pub(crate) fn new(delay_ms: usize, concurrency: usize, events: usize, contenders: &[Contender]) -> Self {
        let contenders =
            contenders.iter().map(|contender| Costs { contender: contender.clone(), costs: Vec::new() });
        Self { delay_ms, concurrency, events, contenders: contenders.collect() }
    }

    /// The throughput that the concurrency allows if calls take as long as they do. `None` without a delay.
    pub(crate) fn limit(&self) -> Option<f64> {
        let [concurrency, delay_ms] = [self.concurrency, self.delay_ms].map(float);
        (self.delay_ms > 0).then(|| concurrency / delay_ms * 1e3)
    }
}

/// The number of [`Report::rates`].
pub(crate) const RATES: usize = 2;

fn float(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap())
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            date: Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            machine: machine(),
            rounds: Vec::new(),
            latencies: Vec::new(),
            starts: Vec::new(),
        }
    }

    /// Two rates for the latencies: half the throughput of the slowest contender with the first delay, which all contenders can
    /// process, and half that of the baseline.
    pub(crate) fn rates(&self) -> [usize; RATES] {
        let per_second = self.rounds[0].contenders.iter().map(|costs| costs.per_second().median);
        let (baseline, slowest) =
            (self.rounds[0].contenders[0].per_second().median, per_second.fold(f64::INFINITY, f64::min));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive numbers")]
        [slowest, baseline].map(|per_second| (per_second / 2.0) as usize)
    }

    /// All results as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut tables: Vec<_> = self.rounds.iter().map(tables::rounds).collect();
        tables.extend(self.latencies_by_rate().map(tables::latencies));
        if !self.starts.is_empty() {
            tables.push(tables::starts(&self.starts));
        }
        format!("{}; {}\n\n{}", self.date, self.machine, tables.join("\n"))
    }

    /// Writes the tables, the plots and the JSON file.
    pub(crate) fn write(&self) {
        let folder = folder();
        fs::create_dir_all(&folder).unwrap();
        let write = |name: &str, content: &str| fs::write(folder.join(name), content).unwrap();
        write("latest.json", &serde_json::to_string_pretty(self).unwrap());
        write("latest.md", &self.markdown());
        write("cpu.svg", &plot::rounds("CPU time per event, µs", &self.rounds, Costs::cpu_us));
        write("throughput.svg", &plot::rounds("Events per second", &self.rounds, Costs::per_second));
        for (n, latencies) in (1..).zip(self.latencies_by_rate()) {
            write(&format!("latency-{n}.svg"), &plot::latencies(latencies));
        }
    }

    fn latencies_by_rate(&self) -> impl Iterator<Item = &[Latency]> {
        self.latencies.chunk_by(|one, next| one.rate == next.rate)
    }
}

/// `target/bench`.
pub(crate) fn folder() -> PathBuf {
    testkit::program::folder().with_file_name("bench")
}

/// Processor, cores, and the load before the run: with other work on the machine, only the ratios mean something.
fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!("{model}, {cores} cores; load average before the run: {load}")
}
