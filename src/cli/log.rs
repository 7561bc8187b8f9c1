//! `log`: changes the log level of a running worker by SIGUSR1 and SIGUSR2. For containers, because the image has no `kill`.

use std::{fs, io};

use rustix::process::{Pid, Signal, kill_process};

use super::CommandError;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// New log level
    level: LogArg,
    /// The worker's process id
    #[arg(long, default_value = "1", value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pid: i32,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LogArg {
    /// Debug logging, until `log configured`
    Debug,
    /// The level of `telemetry.log_level`
    Configured,
}

pub(super) fn run(args: &Args) -> Result<(), CommandError> {
    // The parser accepts only positive numbers.
    let pid = Pid::from_raw(args.pid).unwrap_or(Pid::INIT);
    let signal = match args.level {
        LogArg::Debug => Signal::USR1,
        LogArg::Configured => Signal::USR2,
    };
    let failed = |reason: &str| {
        let hint = "hint: check --pid, and run this command as the worker's user or as root";
        CommandError::Failed(format!("process {}: {reason}; {hint}", args.pid))
    };
    // The signal would kill a process that does not handle it: another program, or a worker that is still starting.
    if let Ok(status) = fs::read_to_string(format!("/proc/{}/status", args.pid))
        && !catches(&status, signal)
    {
        return Err(failed("does not handle this signal: not a worker, or still starting"));
    }
    kill_process(pid, signal).map_err(|error| failed(&io::Error::from(error).to_string()))
}

/// True if a process of this `status` (proc(5)) catches `signal`.
fn catches(status: &str, signal: Signal) -> bool {
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Without this line the answer is unknown, so the signal is sent.
    caught.is_none_or(|mask| mask & (1 << (signal.as_raw() - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caught_signals_are_read_from_the_mask() {
        let status = "Name:\tx\nSigIgn:\tffffffffffffffff\nSigCgt:\t0000000000000200\n";
        assert!(catches(status, Signal::USR1) && !catches(status, Signal::USR2));
        assert!(catches("Name:\tx\n", Signal::USR1));
    }
}
