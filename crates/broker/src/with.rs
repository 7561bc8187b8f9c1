//! `with`: runs a command with a broker.

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal as _, Read as _},
    net::Ipv4Addr,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::mpsc,
    thread,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
use test_broker::{Error, NodeFolder, log_in, release_4};

use crate::{
    ensure::{Failure, ensure},
    say,
};

const SYSTEM_PORT: u16 = 5672;
const SYSTEM_URL: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";
const URL_VARIABLE: &str = "ICW_AMQP__URL";
/// After this many signals, the command is killed.
const SIGNALS_PASSED_ON: u32 = 2;

/// The arguments of `with`.
#[derive(Debug, PartialEq, Eq)]
struct Arguments<'a> {
    private: bool,
    program: &'a OsString,
    rest: &'a [OsString],
}

impl<'a> Arguments<'a> {
    fn parse(mut given: &'a [OsString]) -> Option<Self> {
        let mut private = false;
        loop {
            let (first, rest) = given.split_first()?;
            match first.to_str() {
                Some("--private") => private = true,
                Some("--") => {
                    let (program, rest) = rest.split_first()?;
                    return Some(Self { private, program, rest });
                }
                Some(option) if option.starts_with('-') => return None,
                _ => return Some(Self { private, program: first, rest }),
            }
            given = rest;
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.args(self.rest);
        // `cargo run` sets these for this program. Build scripts would take them for a change, and build again.
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(is_cargos) {
                command.env_remove(name);
            }
        }
        command
    }
}

/// True for the variables that Cargo sets for the program that it runs.
fn is_cargos(variable: &str) -> bool {
    const NAMES: [&str; 5] =
        ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_BIN_NAME", "CARGO_CRATE_NAME", "OUT_DIR"];
    variable.starts_with("CARGO_PKG_") || NAMES.contains(&variable)
}

/// Runs a command with a broker. `None` if the arguments are wrong.
pub(crate) fn with(given: &[OsString]) -> Result<Option<ExitCode>, Failure> {
    let Some(arguments) = Arguments::parse(given) else { return Ok(None) };
    if !arguments.private && !release_4::requested()? {
        if env::var_os(URL_VARIABLE).is_some_and(|url| !url.is_empty()) {
            say("using the broker that ICW_AMQP__URL names");
            return become_command(arguments.command());
        }
        if log_in(Ipv4Addr::LOCALHOST, SYSTEM_PORT).is_ok() {
            say("using the broker on 127.0.0.1:5672");
            let mut command = arguments.command();
            command.env(URL_VARIABLE, SYSTEM_URL);
            return become_command(command);
        }
    }
    ensure()?;
    with_private(arguments.command()).map(Some)
}

fn become_command(mut command: Command) -> Result<Option<ExitCode>, Failure> {
    let cause = command.exec();
    Err(Error::Io { action: format!("run {}", command.get_program().display()), cause }.into())
}

/// What `with_private` waits for.
enum Event {
    Signal(i32),
    Ended(io::Result<ExitStatus>),
}

/// The events of this process, and a sender for more.
fn events() -> Result<(mpsc::Sender<Event>, mpsc::Receiver<Event>), Error> {
    let (sender, events) = mpsc::channel();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|cause| Error::Io { action: "handle signals".to_owned(), cause })?;
    let passed_on = sender.clone();
    thread::spawn(move || {
        for signal in signals.forever() {
            if passed_on.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    });
    Ok((sender, events))
}

fn with_private(command: Command) -> Result<ExitCode, Failure> {
    let (sender, events) = events()?;
    let folder = NodeFolder::new()?;
    say(&format!("starting a private RabbitMQ in {}", folder.path().display()));
    let status = run_with_node(&folder, command, &sender, &events);
    drop(folder);
    say("removed the private RabbitMQ and its folder");
    Ok(ExitCode::from(status?))
}

/// Starts the node and runs the command. Returns the exit status.
fn run_with_node(
    folder: &NodeFolder,
    mut command: Command,
    sender: &mpsc::Sender<Event>,
    events: &mpsc::Receiver<Event>,
) -> Result<u8, Failure> {
    // A process of its own, as the command is, so that a signal can end it at once.
    let own =
        env::current_exe().map_err(|cause| Error::Io { action: "find this program".to_owned(), cause })?;
    let mut start = Command::new(own);
    start.arg("start").arg(folder.node()).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let mut starting = spawn(start)?;
    let mut output = starting.stdout.take();
    match supervise(starting, sender, events, 0)? {
        0 => {}
        status => return Ok(status),
    }
    let mut url = String::new();
    if let Some(output) = &mut output {
        output
            .read_to_string(&mut url)
            .map_err(|cause| Error::Io { action: "read the URL".to_owned(), cause })?;
    }
    let url = url.trim();
    say(&format!("ready: {}", url.rsplit('@').next().unwrap_or_default()));
    command.env(URL_VARIABLE, url);
    if release_4::requested()? {
        command.env("TMPDIR", release_4::temporary());
    }
    // All processes of the command (`cargo run` has two) get each signal once, even if only this process gets it, as from a CI
    // runner. Such a group must not read the terminal.
    command.process_group(0);
    if io::stdin().is_terminal() {
        command.stdin(Stdio::null());
    }
    supervise(spawn(command)?, sender, events, SIGNALS_PASSED_ON)
}

fn spawn(mut command: Command) -> Result<Child, Error> {
    let program = command.get_program().display().to_string();
    command.spawn().map_err(|cause| Error::Io { action: format!("run {program}"), cause })
}

/// Waits for the end of a child that leads a process group, and passes signals on to the group. A signal after the first `passed_on`
/// ones ends the wait. Kills what is left of the group. Returns the exit status as a shell has it.
fn supervise(
    mut child: Child,
    sender: &mpsc::Sender<Event>,
    events: &mpsc::Receiver<Event>,
    passed_on: u32,
) -> Result<u8, Failure> {
    let group = Pid::from_child(&child);
    let ended = sender.clone();
    thread::spawn(move || ended.send(Event::Ended(child.wait())));
    let mut signals = 0;
    let result = loop {
        match events.recv() {
            Ok(Event::Signal(number)) if signals < passed_on => {
                signals += 1;
                // This fails only if the group has ended.
                _ = kill_process_group(group, Signal::from_named_raw(number).unwrap_or(Signal::TERM));
            }
            Ok(Event::Signal(number)) => {
                say("interrupted");
                // The command still runs, so its number is still its own.
                _ = kill_process(group, Signal::KILL);
                break Ok(status_of_signal(number));
            }
            Ok(Event::Ended(status)) => break status.map(exit_status),
            // The caller has a sender.
            Err(_) => break Ok(1),
        }
    };
    _ = kill_process_group(group, Signal::KILL);
    result.map_err(|cause| Error::Io { action: "wait for the command".to_owned(), cause }.into())
}

fn exit_status(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(1),
        (None, signal) => status_of_signal(signal.unwrap_or_default()),
    }
}

/// The exit status of a process that a signal ended, as shells have it.
fn status_of_signal(number: i32) -> u8 {
    u8::try_from(128 + number).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn options_end_at_the_command_or_at_two_dashes() {
        let parse = |text: &str| {
            let words = words(text);
            let parsed = Arguments::parse(&words);
            parsed.map(|parsed| (parsed.private, parsed.program.clone(), parsed.rest.len()))
        };
        assert_eq!(parse("make test"), Some((false, "make".into(), 1)));
        assert_eq!(parse("--private make -j --private"), Some((true, "make".into(), 2)));
        assert_eq!(parse("--private -- -x"), Some((true, "-x".into(), 0)));
        for wrong in ["", "--", "--private", "--other make"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn cargos_variables_are_removed_and_its_settings_kept() {
        assert!(["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR"].into_iter().all(is_cargos));
        assert!(!["CARGO", "CARGO_TARGET_DIR", "CARGO_INCREMENTAL", "CARGO_HOME"].into_iter().any(is_cargos));
    }

    #[test]
    fn exit_status_is_the_commands_or_that_of_its_signal() {
        assert_eq!(exit_status(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(exit_status(ExitStatus::from_raw(15)), 143);
    }
}
