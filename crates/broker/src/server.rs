//! The RabbitMQ that this machine can run.

use std::{
    env,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Error, release_4};

/// The place of Debian's server, on this machine and in the root of RabbitMQ 4.0.
const DEBIAN: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// A RabbitMQ that nodes are started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// A program on this machine.
    Native {
        /// `rabbitmq-server`; rabbitmqctl is in the same folder.
        program: PathBuf,
        /// The root file system in which the program runs, if it is not this machine's.
        root: Option<PathBuf>,
    },
    /// The image [`image`] on a Docker engine.
    Docker,
}

impl Server {
    /// The first of: this machine's RabbitMQ (or 4.0 if it is requested), a Docker engine.
    ///
    /// # Errors
    /// [`Error::NoServer`], [`Error::UnknownRelease`].
    pub fn find() -> Result<Self, Error> {
        match Self::native()? {
            Some(native) => Ok(native),
            None if docker_responds() => Ok(Self::Docker),
            None => Err(Error::NoServer),
        }
    }

    /// This machine's RabbitMQ, or RabbitMQ 4.0 if it is requested.
    ///
    /// # Errors
    /// [`Error::UnknownRelease`].
    pub fn native() -> Result<Option<Self>, Error> {
        if release_4::requested()? {
            let native = || Self::Native { program: DEBIAN.into(), root: Some(release_4::root()) };
            return Ok(release_4::is_ready().then(native));
        }
        // The server's own script first, because Debian's wrapper in /usr/sbin accepts only the users root and rabbitmq.
        let on_path = env::var_os("PATH").unwrap_or_default();
        let candidates = [PathBuf::from(DEBIAN)].into_iter();
        let mut candidates =
            candidates.chain(env::split_paths(&on_path).map(|folder| folder.join("rabbitmq-server")));
        Ok(candidates.find(|path| is_executable(path)).map(|program| Self::Native { program, root: None }))
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// True if a Docker engine responds.
#[must_use]
pub fn docker_responds() -> bool {
    let mut command = Command::new("docker");
    command.arg("info").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The image of containers: `ICW_BROKER_IMAGE`, else RabbitMQ's newest 4.
#[must_use]
pub fn image() -> String {
    env::var("ICW_BROKER_IMAGE").ok().filter(|image| !image.is_empty()).unwrap_or_else(|| "rabbitmq:4".into())
}
