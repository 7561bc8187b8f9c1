//! The program `test-broker`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

mod ensure;
mod with;

use std::{env, ffi::OsString, os::unix::process::CommandExt as _, path::Path, process::ExitCode};

use ensure::{Failure, ensure};
use test_broker::{Error, Node, Server, Stopped, cluster};

const USAGE: &str = "\
RabbitMQ nodes for the demo, the tests and CI.

  cargo broker ensure              make sure that a RabbitMQ can be started (may install Debian's package)
  cargo broker native              exit 0 if nodes run on this machine itself, not in containers; clusters need that
  cargo broker start DIR           start a node that keeps all its files in DIR; prints its AMQP URL
  cargo broker cluster DIR N       start N nodes of one cluster in DIR/1, DIR/2 …; prints their URLs, separated by commas
  cargo broker stop DIR            shut the node down; its state stays
  cargo broker kill DIR            send SIGKILL, to simulate a power failure; the state stays
  cargo broker pause DIR           send SIGSTOP, to simulate a network partition
  cargo broker resume DIR          resume a paused node
  cargo broker restart DIR         stop the node if it runs, and start it with the same ports and state
  cargo broker remove DIR          kill the node (or all nodes of a cluster) and delete DIR
  cargo broker ctl DIR ARGUMENT…   run rabbitmqctl for the node
  cargo broker url DIR             print the node's AMQP URL
  cargo broker with [--private] [--] COMMAND…
                                   run COMMAND with ICW_AMQP__URL set to the first of: the broker that the variable
                                   already names, the broker on 127.0.0.1:5672 (guest), a private node that
                                   is removed after COMMAND. --private: always a private node.

A node listens on 127.0.0.1 only (node n of a cluster on 127.0.0.n), on two free ports. It has its own Erlang cookie and no
epmd, so it shares nothing with the system's broker, and no process remains after `stop`. Standard output has only data (the
URL, and the output of COMMAND and rabbitmqctl). Everything else goes to standard error.
ICW_BROKER=4.0: nodes are Debian 13's RabbitMQ 4.0, in a separate root file system under target/ that `ensure` creates (as
root, with mmdebstrap). `with` then always starts a private node, and COMMAND can create further nodes in its TMPDIR.
A node that is not a container also reads the settings in DIR/more.conf and the plugins in DIR/plugins (names, separated by
commas) when it starts.
Without RabbitMQ but with a Docker engine, the node is a container of the image in ICW_BROKER_IMAGE.
Exit status: 0 done, 1 failed, 2 wrong usage; `with`: that of COMMAND.
";

/// A line for people.
fn say(line: &str) {
    eprintln!("broker: {line}");
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    match run(&arguments) {
        Ok(Some(status)) => status,
        Ok(None) => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Runs a command. `None` if it is unknown or has wrong arguments.
fn run(arguments: &[OsString]) -> Result<Option<ExitCode>, Failure> {
    let Some((command, rest)) = arguments.split_first() else { return Ok(None) };
    match (command.to_str().unwrap_or_default(), rest) {
        ("ensure", []) => ensure()?,
        ("native", []) => return Ok(Some(native()?)),
        ("start", [folder]) => start(folder.as_ref())?,
        ("cluster", [folder, count]) => {
            let Some(count) = count.to_str().and_then(|count| count.parse().ok()).filter(|count| *count > 0)
            else {
                return Ok(None);
            };
            start_cluster(folder.as_ref(), count)?;
        }
        ("ctl", [folder, arguments @ ..]) if !arguments.is_empty() => ctl(folder.as_ref(), arguments)?,
        ("remove", [folder]) => remove(folder.as_ref())?,
        ("with", arguments) => return with::with(arguments),
        (command, [folder]) => return one_node(command, folder.as_ref()),
        _ => return Ok(None),
    }
    Ok(Some(ExitCode::SUCCESS))
}

/// Runs a command on an existing node. `None` if the command is unknown.
fn one_node(command: &str, folder: &Path) -> Result<Option<ExitCode>, Failure> {
    let open = || Node::open(folder);
    match command {
        "stop" => stop(&open()?)?,
        "kill" => open()?.kill()?,
        "pause" => open()?.pause()?,
        "resume" => open()?.resume()?,
        "url" => println!("{}", open()?.url()),
        "restart" => println!("{}", open()?.restart()?.url()),
        _ => return Ok(None),
    }
    Ok(Some(ExitCode::SUCCESS))
}

fn native() -> Result<ExitCode, Error> {
    // Each node of a cluster needs its own loopback address. Only Linux has more than one by default.
    let clusters = cfg!(target_os = "linux") && Server::native()?.is_some();
    Ok(if clusters { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn start(folder: &Path) -> Result<(), Error> {
    if let Ok(node) = Node::open(folder) {
        let folder = node.folder().display();
        if node.is_running() {
            say(&format!("the node in {folder} is already running"));
        } else {
            say(&format!("restarting the node in {folder} with its ports and state"));
        }
    } else if Server::find()? == Server::Docker {
        say(&format!("starting a container of {}", test_broker::image()));
    }
    println!("{}", Node::start(folder)?.url());
    Ok(())
}

fn start_cluster(folder: &Path, count: u8) -> Result<(), Error> {
    let nodes = cluster::start(folder, count)?;
    println!("{}", nodes.iter().map(Node::url).collect::<Vec<_>>().join(","));
    Ok(())
}

fn stop(node: &Node) -> Result<(), Error> {
    let folder = node.folder().display();
    match node.stop()? {
        Stopped::Before => say(&format!("the node in {folder} is not running")),
        Stopped::Cleanly => {
            say(&format!("stopped the node; its state stays in {folder} (`cargo broker remove` deletes it)"));
        }
        Stopped::Killed => {
            say(&format!("the node did not stop in time: killed it; its state stays in {folder}"));
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<(), Error> {
    for node in Node::open_all(folder)? {
        node.remove()?;
    }
    // A cluster's folder is left, without its nodes.
    if folder.exists() {
        std::fs::remove_dir_all(folder)
            .map_err(|cause| Error::Io { action: format!("delete {}", folder.display()), cause })?;
    }
    Ok(())
}

/// Becomes rabbitmqctl.
fn ctl(folder: &Path, arguments: &[OsString]) -> Result<(), Error> {
    let cause = Node::open(folder)?.ctl_command(arguments).exec();
    Err(Error::Io { action: "run rabbitmqctl".to_owned(), cause })
}
