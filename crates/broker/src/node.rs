//! The life of a node.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::Signal;

use crate::{Error, Server, image, log_in, ports, process, record::Record, settings, wait_until};

/// Time limit for a node's start.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Time limit for an orderly stop. Then the node is killed.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Time limit until the process of a node has written its id.
const LAUNCH_LIMIT: Duration = Duration::from_secs(10);
const LOG_LINES: usize = 30;

/// A node, with all its files in one folder.
#[derive(Clone, Debug)]
pub struct Node {
    folder: PathBuf,
    record: Record,
}

/// The result of an orderly stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The node ended by itself.
    Cleanly,
    /// The node did not end in time and was killed.
    Killed,
    /// The node was not running.
    Before,
}

impl Node {
    /// The node of a folder.
    ///
    /// # Errors
    /// [`Error::NotANode`], [`Error::BadRecord`].
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let folder = folder.canonicalize().map_err(|_| Error::NotANode(folder.to_owned()))?;
        let record = Record::read(&folder)?;
        Ok(Self { folder, record })
    }

    /// The nodes of a cluster's folder, or the node of a node's.
    ///
    /// # Errors
    /// [`Error::NotANode`], [`Error::BadRecord`].
    pub fn open_all(folder: &Path) -> Result<Vec<Self>, Error> {
        if !folder.join("1/node").exists() {
            return Ok(vec![Self::open(folder)?]);
        }
        let members = (1..=u8::MAX).map(|number| folder.join(number.to_string()));
        members.take_while(|member| member.join("node").exists()).map(|member| Self::open(&member)).collect()
    }

    /// Starts a node in an empty folder, or the node of the folder with its ports and state, and waits until it accepts logins.
    /// A running node is left as it is.
    ///
    /// # Errors
    /// [`Error::NotReady`], or another reason why the node could not be started.
    pub fn start(folder: &Path) -> Result<Self, Error> {
        let folder = created(folder)?;
        let _lock = lock(&folder)?;
        if folder.join("node").exists() {
            let node = Self::open(&folder)?;
            if !node.is_running() {
                node.launch()?;
            }
            node.wait_ready()?;
            return Ok(node);
        }
        check_empty(&folder)?;
        for _ in 0..2 {
            let node = Self::create(&folder, Ipv4Addr::LOCALHOST, 1)?;
            node.launch()?;
            match node.wait_ready() {
                // Another program took the port first.
                Err(Error::NotReady { .. }) if node.port_is_taken() => node.forget()?,
                Err(error) => return Err(error),
                Ok(()) => return Ok(node),
            }
        }
        let node = Self::create(&folder, Ipv4Addr::LOCALHOST, 1)?;
        node.launch()?;
        node.wait_ready().map(|()| node)
    }

    /// Chooses the ports of a new node and writes its record.
    pub(crate) fn create(folder: &Path, host: Ipv4Addr, nodes: u8) -> Result<Self, Error> {
        let (port, dist_port) = ports::two_free().map_err(Error::io("find free ports"))?;
        let server = Server::find()?;
        if let Server::Native { root: Some(_), .. } = server
            && !folder.starts_with(crate::release_4::temporary())
        {
            return Err(Error::OutsideRoot(folder.to_owned()));
        }
        let container = format!("icw-broker-{:016x}", ports::random());
        Self::create_as(folder, Record { host, port, dist_port, nodes, server, container })
    }

    pub(crate) fn create_as(folder: &Path, record: Record) -> Result<Self, Error> {
        record.write(folder)?;
        Ok(Self { folder: folder.to_owned(), record })
    }

    /// Deletes the state of a new node that could not start.
    fn forget(&self) -> Result<(), Error> {
        for name in ["data", "log"] {
            let path = self.folder.join(name);
            fs::remove_dir_all(&path).map_err(Error::io(format!("delete {}", path.display())))?;
        }
        Ok(())
    }

    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// The node's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.record.host, self.record.port)
    }

    /// The URL with user and password.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.address())
    }

    /// True if the node's process or container runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        match self.record.server {
            Server::Native { .. } => process::vm(&self.folder).is_some(),
            Server::Docker => {
                let inspected = self.docker(&["inspect", "-f", "{{.State.Running}}"], &[]);
                inspected.is_ok_and(|running| running.trim() == "true")
            }
        }
    }

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
    fn docker(&self, before: &[&str], after: &[&str]) -> Result<String, Error> {
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

    fn port_is_taken(&self) -> bool {
        let console = fs::read_to_string(self.folder.join("log/console")).unwrap_or_default();
        matches!(self.record.server, Server::Native { .. }) && console.contains("eaddrinuse")
    }

    /// Shuts the node down. Its state stays.
    ///
    /// # Errors
    /// [`Error::StillRunning`], or a failure of Docker.
    pub fn stop(&self) -> Result<Stopped, Error> {
        if !self.is_running() {
            return Ok(Stopped::Before);
        }
        let Some(vm) = process::vm(&self.folder) else {
            let limit = STOP_LIMIT.as_secs().to_string();
            return self.docker(&["stop", "-t", &limit], &[]).map(|_| Stopped::Cleanly);
        };
        // Only the VM, which ends its helpers.
        _ = rustix::process::kill_process(vm, Signal::TERM);
        let ended =
            wait_until(STOP_LIMIT, Duration::from_millis(100), || process::vm(&self.folder).is_none());
        process::kill(&self.folder)?;
        Ok(if ended { Stopped::Cleanly } else { Stopped::Killed })
    }

    /// Kills the node, as a power failure does. Its state stays. RabbitMQ 3.10 writes the name of a new quorum queue to disk up to
    /// one second late: a queue that was declared just before is empty afterwards.
    ///
    /// # Errors
    /// [`Error::StillRunning`].
    pub fn kill(&self) -> Result<(), Error> {
        if matches!(self.record.server, Server::Docker) {
            // This fails if the container is not running.
            _ = self.docker(&["kill"], &[]);
            return Ok(());
        }
        process::kill(&self.folder)
    }

    /// Suspends all processes of the node. Its connections to clients and other nodes stay open, but nothing arrives.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::NeedsNative`].
    pub fn pause(&self) -> Result<(), Error> {
        self.signal(Signal::STOP)
    }

    /// Resumes a paused node.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::NeedsNative`].
    pub fn resume(&self) -> Result<(), Error> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), Error> {
        if matches!(self.record.server, Server::Docker) {
            return Err(Error::NeedsNative("pausing a node"));
        }
        let vm = process::vm(&self.folder).ok_or_else(|| Error::NotRunning(self.folder.clone()))?;
        process::signal(vm, signal);
        Ok(())
    }

    /// Stops the node if it runs, and starts it with the same ports and state.
    ///
    /// # Errors
    /// Those of [`Node::stop`] and [`Node::start`].
    pub fn restart(&self) -> Result<Self, Error> {
        self.stop()?;
        Self::start(&self.folder)
    }

    /// Kills the node and deletes its folder.
    ///
    /// # Errors
    /// [`Error::StillRunning`], or the folder could not be deleted.
    pub fn remove(&self) -> Result<(), Error> {
        if matches!(self.record.server, Server::Docker) {
            // This fails if the container was never started.
            _ = self.docker(&["rm", "-fv"], &[]);
        } else {
            process::kill(&self.folder)?;
        }
        fs::remove_dir_all(&self.folder).map_err(Error::io(format!("delete {}", self.folder.display())))
    }

    /// rabbitmqctl for this node.
    #[must_use]
    pub fn ctl_command(&self, arguments: &[impl AsRef<std::ffi::OsStr>]) -> Command {
        let Server::Native { program, root } = &self.record.server else {
            let mut command = Command::new("docker");
            command.args(["exec", &self.record.container, "rabbitmqctl"]).args(arguments);
            return command;
        };
        let program = program.with_file_name("rabbitmqctl");
        let mut command = if let Some(root) = root {
            let mut command = Command::new("chroot");
            command.arg(root).arg(program);
            command
        } else {
            Command::new(program)
        };
        settings::set_environment(&mut command, &self.folder, &self.record);
        command.env("ERL_AFLAGS", format!("{} -dist_listen false", settings::distribution(&self.record)));
        command.arg("-n").arg(settings::node_name(&self.record)).args(arguments);
        command
    }

    /// Runs rabbitmqctl for this node. Returns its output.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn ctl(&self, arguments: &[impl AsRef<std::ffi::OsStr>]) -> Result<String, Error> {
        process::output(&mut self.ctl_command(arguments))
    }
}

/// The absolute path of a folder, which is created if it does not exist.
pub(crate) fn created(folder: &Path) -> Result<PathBuf, Error> {
    let absolute = fs::create_dir_all(folder).and_then(|()| folder.canonicalize());
    let folder = absolute.map_err(Error::io(format!("create {}", folder.display())))?;
    if folder.as_os_str().as_encoded_bytes().iter().any(u8::is_ascii_whitespace) {
        return Err(Error::Spaces(folder));
    }
    Ok(folder)
}

pub(crate) fn check_empty(folder: &Path) -> Result<(), Error> {
    let mut entries = fs::read_dir(folder).map_err(Error::io(format!("read {}", folder.display())))?;
    if entries.next().is_some() { Err(Error::NotEmpty(folder.to_owned())) } else { Ok(()) }
}

/// One start at a time for a folder. The lock ends with the value or this process; the node does not inherit it.
fn lock(folder: &Path) -> Result<File, Error> {
    let file = File::open(folder).map_err(Error::io(format!("open {}", folder.display())))?;
    let locked = wait_until(READY_LIMIT * 2, Duration::from_millis(100), || file.try_lock().is_ok());
    if locked { Ok(file) } else { Err(Error::Locked(folder.to_owned())) }
}
