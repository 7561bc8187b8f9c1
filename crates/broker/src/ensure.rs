//! `ensure`: installs RabbitMQ if this machine has none.

use std::process::Command;

use test_broker::{Error, Server, docker_responds, image, release_4, repository};

use crate::say;

/// Exit status of `scripts/apt-install` if apt-get is missing or may not be used.
const MAY_NOT_INSTALL: i32 = 3;

const ADVICE: &str = "RabbitMQ is missing and cannot be installed. Use one of: 'apt-get install rabbitmq-server' as root \
    (Debian, Ubuntu), 'brew install rabbitmq' (macOS), a running Docker engine, \
    or your own broker in ICW_AMQP__URL=amqp://user:password@host:5672/%2f";

/// Makes sure that a RabbitMQ can be started.
pub(crate) fn ensure() -> Result<(), Failure> {
    if Server::native()?.is_some() {
        return Ok(());
    }
    if release_4::requested()? { make_root_4() } else { install() }
}

/// A failure with advice, or one of the library.
pub(crate) enum Failure {
    Broker(Error),
    Advice(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Broker(error)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Broker(error) => error.fmt(f),
            Self::Advice(text) => f.write_str(text),
        }
    }
}

fn advice<T>(text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Advice(text.into()))
}

fn make_root_4() -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return advice(
            "RabbitMQ 4.0 runs in a separate root file system, which needs root: run this as root",
        );
    }
    let installed = Command::new("mmdebstrap").arg("--version").output().is_ok();
    if !installed && apt_install("mmdebstrap", true)? != Some(0) {
        return advice("mmdebstrap is missing, see above");
    }
    let root = release_4::root();
    say(&format!(
        "creating a root file system with Debian 13's RabbitMQ in {} (once, one to two minutes)",
        root.display()
    ));
    Ok(release_4::make()?)
}

fn install() -> Result<(), Failure> {
    let docker = docker_responds();
    say("rabbitmq-server is not installed");
    // With Docker, a password prompt is not necessary.
    match apt_install("rabbitmq-server", !docker)? {
        Some(0) if Server::native()?.is_some() => Ok(()),
        Some(0) => advice("the package is installed, but rabbitmq-server is missing"),
        Some(MAY_NOT_INSTALL) if docker => {
            say(&format!("a Docker engine is available: nodes will be containers of {}", image()));
            Ok(())
        }
        Some(MAY_NOT_INSTALL) => advice(ADVICE),
        _ => advice("apt-get could not install rabbitmq-server, see above"),
    }
}

/// Runs `scripts/apt-install`. Returns its exit status.
fn apt_install(package: &str, ask: bool) -> Result<Option<i32>, Failure> {
    let script = repository().join("scripts/apt-install");
    let mut command = Command::new(&script);
    command.arg(package).env("APT_INSTALL_ASK", if ask { "yes" } else { "no" });
    let status = command.status();
    let status = status.map_err(|cause| Error::Io { action: format!("run {}", script.display()), cause })?;
    Ok(status.code())
}
