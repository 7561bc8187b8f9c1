//! The cost of a round, as Linux counts it (proc(5)).

use std::{fmt, fs, time::Duration};

use serde::Serialize;

/// Counters of a process since its start.
pub(crate) struct Snapshot {
    /// In hundredths of a second.
    user_ticks: f64,
    system_ticks: f64,
    switches: f64,
    /// `None` if the kernel does not count them.
    io_calls: Option<f64>,
    peak_kib: f64,
    resident_kib: f64,
}

/// The cost of a round.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cost {
    /// User and system time per event, in microseconds.
    pub(crate) cpu_us: f64,
    /// The system time alone.
    pub(crate) system_us: f64,
    /// Context switches per event, of the threads that exist at the end.
    pub(crate) switches: f64,
    /// System calls of the read and write families per event (`syscr` and `syscw`): files, pipes, and sockets through
    /// `read`, `write` and `writev`. Linux counts no others without root: no `send`, `recv`, `epoll_wait`, `futex`, `fsync`.
    pub(crate) io_calls: Option<f64>,
    pub(crate) per_second: f64,
    /// Peak resident memory since the start of the process, in MiB.
    pub(crate) peak_mib: f64,
    /// Resident memory at the end, in MiB.
    pub(crate) end_mib: f64,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu_us, switches, per_second, peak_mib, .. } = self;
        write!(
            f,
            "{cpu_us:6.0} µs CPU per event, {switches:5.1} switches, {per_second:6.0} events/s, peak {peak_mib:.0} MiB"
        )
    }
}

impl Snapshot {
    /// The counters of the process `pid` now.
    pub(crate) fn of(pid: u32) -> Self {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
        let stat = read("stat").unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let [user_ticks, system_ticks] = [fields[11], fields[12]].map(|ticks| ticks.parse::<f64>().unwrap());
        let status = read("status").unwrap();
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        // A thread may end meanwhile.
        let tasks = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
        let switches = tasks
            .map(|task| {
                field(&task, "voluntary_ctxt_switches:") + field(&task, "nonvoluntary_ctxt_switches:")
            })
            .sum();
        Self {
            user_ticks,
            system_ticks,
            switches,
            io_calls: read("io").ok().map(|io| field(&io, "syscr:") + field(&io, "syscw:")),
            peak_kib: field(&status, "VmHWM:"),
            resident_kib: field(&status, "VmRSS:"),
        }
    }

    /// Resident memory, in MiB.
    pub(crate) fn resident_mib(&self) -> f64 {
        self.resident_kib / 1024.0
    }

    /// The cost of `events` since `before`, which took `took`.
    pub(crate) fn since(&self, before: &Self, events: usize, took: Duration) -> Cost {
        let events = f64::from(u32::try_from(events).unwrap());
        let per_event = |now: f64, before: f64| (now - before).max(0.0) / events;
        let system_us = per_event(self.system_ticks, before.system_ticks) * 1e4;
        Cost {
            cpu_us: per_event(self.user_ticks, before.user_ticks) * 1e4 + system_us,
            system_us,
            switches: per_event(self.switches, before.switches),
            io_calls: self.io_calls.zip(before.io_calls).map(|(now, before)| per_event(now, before)),
            per_second: events / took.as_secs_f64(),
            peak_mib: self.peak_kib / 1024.0,
            end_mib: self.resident_mib(),
        }
    }
}

/// The number in the line of `status` that begins with `name`.
fn field(status: &str, name: &str) -> f64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
