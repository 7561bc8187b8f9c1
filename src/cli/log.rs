//! `log`: changes what a running worker logs, by SIGUSR1 and SIGUSR2. For containers: the image has no `kill`.

use rustix::process::{Pid, Signal, kill_process};

use super::Failure;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Everything, or what `telemetry.log_level` says
    level: Level,
    /// The worker's process id
    #[arg(long, default_value = "1", value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pid: i32,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Level {
    /// Everything, until `configured`
    Debug,
    /// What `telemetry.log_level` says
    Configured,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    // The parser lets only positive numbers through.
    let pid = Pid::from_raw(args.pid).unwrap_or(Pid::INIT);
    let signal = match args.level {
        Level::Debug => Signal::USR1,
        Level::Configured => Signal::USR2,
    };
    kill_process(pid, signal).map_err(|error| {
        let hint = "check --pid, and that this runs as the worker's user or as root";
        Failure::Failed(format!("process {}: {}; {hint}", args.pid, std::io::Error::from(error)))
    })
}
