//! The life of real nodes, and what `with` leaves behind.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::Ipv4Addr,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use test_broker::{Error, Node, NodeFolder, Server, Stopped, log_in};

const LIMIT: Duration = Duration::from_secs(60);

fn until(what: &str, mut ask: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ask() {
        assert!(start.elapsed() < LIMIT, "timed out waiting for {what}");
        sleep(Duration::from_millis(50));
    }
}

/// A running `with`, whose command is a shell script that prints a line first.
struct With {
    child: Child,
    output: BufReader<ChildStdout>,
    /// The first line of the script.
    line: String,
    port: u16,
}

/// Leaves nothing behind if a test fails.
impl Drop for With {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // The first is passed on to the command, the second ends `with` and its broker.
            for _ in 0..2 {
                _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
                sleep(Duration::from_millis(200));
            }
            _ = self.child.wait();
        }
    }
}

impl With {
    /// Starts `with`. The script gets `$ICW_AMQP__URL`, which the line must contain.
    fn start(script: &str) -> Self {
        let mut child = Self::spawn(&["with", "--private", "--", "sh", "-c", script]);
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let port = line.split(['@', ':', '/']).find_map(|part| part.parse().ok());
        let port = port.unwrap_or_else(|| panic!("no URL: {line}"));
        Self { child, output, line, port }
    }

    fn spawn(arguments: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_test-broker"));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end. Returns the exit status, the rest of the output, and the lines for people.
    fn finish(mut self) -> (Option<i32>, String, String) {
        let (mut output, mut errors) = (String::new(), String::new());
        self.output.read_to_string(&mut output).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (self.child.wait().unwrap().code(), output, errors)
    }
}

/// The folder that `with` named.
fn folder(errors: &str) -> &Path {
    let line = errors.lines().find_map(|line| line.strip_prefix("broker: starting a private RabbitMQ in "));
    Path::new(line.unwrap_or_else(|| panic!("{errors}")))
}

#[test]
fn with_returns_the_commands_status_and_leaves_nothing() {
    let with = With::start("echo $ICW_AMQP__URL; exit 7");
    let port = with.port;
    let (status, _, errors) = with.finish();
    assert_eq!(status, Some(7), "{errors}");
    assert!(!folder(&errors).exists(), "{errors}");
    assert!(log_in(Ipv4Addr::LOCALHOST, port).is_err());
}

#[test]
fn with_passes_a_signal_on_and_waits_for_the_command() {
    let script =
        "trap 'echo caught; exit 9' TERM; echo $ICW_AMQP__URL; for n in $(seq 2400); do sleep 0.05; done";
    let with = With::start(script);
    assert!(log_in(Ipv4Addr::LOCALHOST, with.port).is_ok());
    with.signal(Signal::TERM);
    let (status, output, errors) = with.finish();
    assert_eq!((status, output.as_str()), (Some(9), "caught\n"), "{errors}");
    assert!(!folder(&errors).exists(), "{errors}");
}

#[test]
fn with_interrupted_during_the_start_leaves_nothing() {
    let mut child = With::spawn(&["with", "--private", "true"]);
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    errors.read_line(&mut line).unwrap();
    let node = folder(&line).join("node/node");
    until("the node", || node.exists());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!folder(&line).exists());
}

#[test]
fn with_killed_leaves_no_broker() {
    let mut with = With::start("echo $$ $ICW_AMQP__URL; exec sleep 600");
    let command: i32 = with.line.split(' ').next().unwrap().parse().unwrap();
    let mut errors = BufReader::new(with.child.stderr.take().unwrap());
    let mut line = String::new();
    errors.read_line(&mut line).unwrap();
    with.signal(Signal::KILL);
    with.child.wait().unwrap();
    until("the end of the broker", || log_in(Ipv4Addr::LOCALHOST, with.port).is_err());
    until("the end of the folder", || !folder(&line).exists());
    kill_process(Pid::from_raw(command).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn node_keeps_its_port_and_users_over_kill_stop_and_restart() {
    let folder = NodeFolder::new().unwrap();
    let node = Node::start(&folder.node()).unwrap();
    let url = node.url();
    node.ctl(&["-q", "add_user", "stays", "unused-password"]).unwrap();
    node.kill().unwrap();
    assert!(!node.is_running());
    assert_eq!(node.stop().unwrap(), Stopped::Before);
    assert_eq!(Node::start(&folder.node()).unwrap().url(), url);
    assert_eq!(node.stop().unwrap(), Stopped::Cleanly);
    let node = node.restart().unwrap();
    assert!(node.ctl(&["-q", "list_users"]).unwrap().contains("stays"));
    if matches!(Server::find().unwrap(), Server::Native { .. }) {
        let port: u16 = node.address().rsplit(':').next().unwrap().parse().unwrap();
        node.pause().unwrap();
        assert!(log_in(Ipv4Addr::LOCALHOST, port).is_err());
        node.resume().unwrap();
        until("the resumed node", || log_in(Ipv4Addr::LOCALHOST, port).is_ok());
    }
    node.remove().unwrap();
    assert!(matches!(Node::open(&folder.node()), Err(Error::NotANode(_))));
}

#[test]
fn start_leaves_a_folder_with_other_files_unchanged() {
    let folder = NodeFolder::new().unwrap();
    std::fs::create_dir(folder.node()).unwrap();
    std::fs::write(folder.node().join("letter"), "dear").unwrap();
    assert!(matches!(Node::start(&folder.node()), Err(Error::NotEmpty(_))));
    assert_eq!(std::fs::read_to_string(folder.node().join("letter")).unwrap(), "dear");
}
