//! Reasons why a node could not be started, stopped or removed.

use std::{fmt, io, path::PathBuf, process::ExitStatus};

/// An error of a command on nodes. The message says what to do next.
#[derive(Debug)]
pub enum Error {
    /// A call of the operating system failed.
    Io {
        /// The action, such as `read /tmp/x/node`.
        action: String,
        /// The cause.
        cause: io::Error,
    },
    /// Neither `rabbitmq-server` nor a Docker engine is available.
    NoServer,
    /// `ICW_BROKER` has an unknown value.
    UnknownRelease(String),
    /// The folder of a RabbitMQ 4.0 node is outside its root file system.
    OutsideRoot(PathBuf),
    /// The folder is not a node's.
    NotANode(PathBuf),
    /// The file `node` cannot be read.
    BadRecord {
        /// The file.
        path: PathBuf,
        /// The key that is missing or has a wrong value.
        key: &'static str,
    },
    /// The folder has other files.
    NotEmpty(PathBuf),
    /// RabbitMQ's scripts can't handle the folder's name.
    Spaces(PathBuf),
    /// Another process is starting the node.
    Locked(PathBuf),
    /// Containers can't do this.
    NeedsNative(&'static str),
    /// The node is not running.
    NotRunning(PathBuf),
    /// The node ended, or did not accept a login in time.
    NotReady {
        /// The node's folder, which is kept.
        folder: PathBuf,
        /// The last failure of a login, and the ports if another program has them.
        reason: String,
        /// The end of the node's log.
        log: String,
    },
    /// The node's processes did not end after SIGKILL.
    StillRunning(PathBuf),
    /// A program failed.
    Failed {
        /// Its name and arguments.
        command: String,
        /// Its exit status.
        status: ExitStatus,
        /// Its output.
        output: String,
    },
}

impl Error {
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |cause| Self::Io { action, cause }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { action, cause } => write!(f, "could not {action}: {cause}"),
            Self::NoServer => f.write_str(
                "neither rabbitmq-server nor a Docker engine is available; hint: run `cargo broker ensure` or `make test`",
            ),
            Self::UnknownRelease(given) => {
                write!(f, "ICW_BROKER={given}: expected 4.0, or nothing for this machine's RabbitMQ")
            }
            Self::OutsideRoot(folder) => write!(
                f,
                "the folder of a RabbitMQ 4.0 node must be in {}: {} is not",
                crate::release_4::temporary().display(),
                folder.display()
            ),
            Self::NotANode(folder) => write!(
                f,
                "{} is not a node's folder (file `node` is missing); hint: `cargo broker start` creates one",
                folder.display()
            ),
            Self::BadRecord { path, key } => write!(f, "{}: no valid value of {key}", path.display()),
            Self::NotEmpty(folder) => {
                write!(f, "{} is neither empty nor a node's folder: left unchanged", folder.display())
            }
            Self::Spaces(folder) => {
                write!(f, "RabbitMQ's scripts need a folder without spaces: {}", folder.display())
            }
            Self::Locked(folder) => write!(f, "another process is starting the node in {}", folder.display()),
            Self::NeedsNative(what) => write!(
                f,
                "{what} needs RabbitMQ on this machine itself, not in a container; hint: run `cargo broker ensure`"
            ),
            Self::NotRunning(folder) => write!(f, "the node in {} is not running", folder.display()),
            Self::NotReady { folder, reason, log } => write!(
                f,
                "the node in {} did not start: {reason}\nend of the node's log:\n{log}\n\
                 The node is stopped; its folder is kept for inspection",
                folder.display()
            ),
            Self::StillRunning(folder) => {
                write!(f, "the node in {} still runs after SIGKILL", folder.display())
            }
            Self::Failed { command, status, output } => write!(f, "`{command}` failed ({status})\n{output}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { cause, .. } => Some(cause),
            _ => None,
        }
    }
}
