//! The start of a node's process or container.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use super::Node;
use crate::{Error, Server, image, log_in, process, record::Record, settings, wait_until};

/// Time limit for a node's start.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// Time limit until the process of a node has written its id.
const LAUNCH_LIMIT: Duration = Duration::from_secs(10);
const LOG_LINES: usize = 30;

impl Node {
    pub(crate) fn launch(&self) -> Result<(), Error> {
        match &self.record.server {
            Server::Native { program, root } => self.launch_native(program, root.as_deref()),
            Server::Docker => self.launch_container(),
        }
    }

    fn launch_native(&self, program: &Path, root: Option<&Path>) -> Result<(), Error> {
        let failed = || Error::io(format!("start a node in {}", self.folder.display()));
        settings::write_files(&self.folder, &self.record).map_err(failed())?;
        let console = File::create(self.folder.join("log/console")).map_err(failed())?;
        let console_too = console.try_clone().map_err(failed())?;
        let mut command = Command::new("sh");
        settings::set_environment(&mut command, &self.folder, &self.record);
        // ALLOW_INPUT: the Erlang VM itself becomes the background process. Its process id is known, and SIGTERM stops it.
        command
            .env("RABBITMQ_ALLOW_INPUT", "1")
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", settings::vm_arguments(&self.record));
        // The process writes its id before it becomes the node, so an interrupt cannot leave an unknown node.
        command.args(["-c", "echo $$ >pid.new && mv pid.new pid && exec \"$@\"", "sh"]);
        if let Some(root) = root {
            command.arg("chroot").arg(root);
        }
        // Erlang ignores the last argument, by which `process::vm` identifies this node.
        command.arg(program).arg("-icw_broker").arg(&self.folder);
        command.stdin(Stdio::null()).stdout(console).stderr(console_too);
        // Ctrl-C for a test does not reach the broker, and all its processes can be killed together.
        let mut child = command.process_group(0).spawn().map_err(failed())?;
        let id = format!("{}\n", child.id());
        wait_until(LAUNCH_LIMIT, Duration::from_millis(5), || {
            let written = fs::read_to_string(self.folder.join("pid")).is_ok_and(|written| written == id);
            written || !matches!(child.try_wait(), Ok(None))
        });
        // Otherwise the process stays a zombie after its end, for as long as this process lives.
        thread::spawn(move || child.wait());
        Ok(())
    }

    fn launch_container(&self) -> Result<(), Error> {
        if self.docker(&["inspect"], &[]).is_ok() {
            return self.docker(&["start"], &[]).map(drop);
        }
        let label = format!("instant-connect-worker.broker={}", self.folder.display());
        let port = format!("127.0.0.1:{}:5672", self.record.port);
        let image = image();
        let options = ["run", "-d", "--hostname", "localhost", "--label", &label, "-p", &port, "--name"];
        self.docker(&options, &[&image]).map(drop)
    }

    /// Runs `docker BEFORE CONTAINER AFTER`.
    pub(super) fn docker(&self, before: &[&str], after: &[&str]) -> Result<String, Error> {
        process::output(Command::new("docker").args(before).arg(&self.record.container).args(after))
    }

    /// Waits until the node accepts a login. A node that does not is killed.
    pub(crate) fn wait_ready(&self) -> Result<(), Error> {
        let mut reason = String::new();
        let mut ready = false;
        wait_until(READY_LIMIT, Duration::from_millis(100), || {
            match log_in(self.record.host, self.record.port) {
                Ok(()) => ready = true,
                Err(error) => reason = error.to_string(),
            }
            ready || !self.may_become_ready()
        });
        if ready {
            return Ok(());
        }
        if self.port_is_taken() {
            let Record { port, dist_port, .. } = self.record;
            reason = format!("another program uses one of the node's ports ({port}, {dist_port})");
        }
        let log = self.log_tail();
        self.kill()?;
        Err(Error::NotReady { folder: self.folder.clone(), reason, log })
    }

    /// False if the node has ended.
    fn may_become_ready(&self) -> bool {
        matches!(self.record.server, Server::Docker) || self.is_running()
    }

    fn log_tail(&self) -> String {
        let lines = LOG_LINES.to_string();
        let text = match self.record.server {
            Server::Native { .. } => fs::read_to_string(self.folder.join("log/console")).ok(),
            Server::Docker => self.docker(&["logs", "--tail", &lines], &[]).ok(),
        };
        process::tail(&text.unwrap_or_default(), LOG_LINES).to_owned()
    }

    pub(super) fn port_is_taken(&self) -> bool {
        let console = fs::read_to_string(self.folder.join("log/console")).unwrap_or_default();
        matches!(self.record.server, Server::Native { .. }) && console.contains("eaddrinuse")
    }
}
