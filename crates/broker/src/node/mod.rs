//! The life of a node.

mod launch;

use std::{
    ffi::OsStr,
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::Signal;

use crate::{Error, Server, ports, process, record::Record, settings, wait_until};

/// Time limit for another process' start of the same node.
const LOCK_LIMIT: Duration = Duration::from_secs(120);
/// Time limit for an orderly stop. Then the node is killed.
const STOP_LIMIT: Duration = Duration::from_secs(30);
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
        let free_port = || ports::free_port().map_err(Error::io("find a free port"));
        let (port, dist_port) = (free_port()?, free_port()?);
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
    pub fn ctl_command(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
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
    pub fn ctl(&self, arguments: &[impl AsRef<OsStr>]) -> Result<String, Error> {
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
    let locked = wait_until(LOCK_LIMIT, Duration::from_millis(100), || file.try_lock().is_ok());
    if locked { Ok(file) } else { Err(Error::Locked(folder.to_owned())) }
}
