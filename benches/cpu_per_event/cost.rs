//! The cost of a round, as Linux counts it (proc(5)).

use std::{fmt, fs, time::Duration};

use serde::Serialize;

/// The cost of a round.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cost {
    /// User and system time per event, in milliseconds.
    pub(crate) cpu_ms: f64,
    /// Context switches per event, of the threads that exist at the end.
    pub(crate) switches: f64,
    pub(crate) per_second: f64,
    /// Peak resident memory, in MiB.
    pub(crate) peak_mib: f64,
    /// Resident memory at the end, in MiB.
    pub(crate) end_mib: f64,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu_ms, switches, per_second, peak_mib, end_mib } = self;
        write!(
            f,
            "{cpu_ms:6.3} ms CPU per event, {switches:5.1} switches, {per_second:6.0} events/s, \
             peak {peak_mib:.0} MiB, end {end_mib:.0} MiB"
        )
    }
}

impl Cost {
    /// The cost of the process `pid` for `events`, which took `took`.
    pub(crate) fn of(pid: u32, events: usize, took: Duration) -> Self {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        // Hundredths of a second.
        let ticks: f64 = [fields[11], fields[12]].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum();
        let status = read("status");
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        // A thread may end meanwhile.
        let tasks = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
        let switches: f64 = tasks
            .map(|task| {
                field(&task, "voluntary_ctxt_switches:") + field(&task, "nonvoluntary_ctxt_switches:")
            })
            .sum();
        let events = f64::from(u32::try_from(events).unwrap());
        Self {
            cpu_ms: ticks * 10.0 / events,
            switches: switches / events,
            per_second: events / took.as_secs_f64(),
            peak_mib: field(&status, "VmHWM:") / 1024.0,
            end_mib: field(&status, "VmRSS:") / 1024.0,
        }
    }
}

/// The number in the line of `status` that begins with `name`.
fn field(status: &str, name: &str) -> f64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
