//! RabbitMQ nodes for the demo, the tests and CI, on this machine or in containers.
//!
//! A node keeps all its files in one folder. It listens on 127.0.0.1 only (node n of a cluster on 127.0.0.n), on two free
//! ports. It has its own Erlang cookie and no epmd, so it shares nothing with the system's broker, and no process remains
//! after it stopped. Everything that is known of a node is in its folder, so any process can work on it.
//!
//! - [`Server`]: the RabbitMQ that this machine can run
//! - [`Node`]: a node's life: start, stop, kill, pause, resume, remove
//! - [`cluster`]: several nodes
//! - [`NodeFolder`]: a temporary folder whose nodes do not outlive this process, even if it is killed
//! - [`release_4`]: the separate root file system of RabbitMQ 4.0
//! - [`log_in`]: whether a broker accepts a login
//!
//! The program `test-broker` (`cargo broker`) gives the same to people, the Makefile and CI. This library prints nothing.

pub mod cluster;
mod error;
mod folder;
mod node;
mod ports;
mod probe;
mod process;
mod record;
pub mod release_4;
mod server;
mod settings;

pub use error::Error;
pub use folder::NodeFolder;
pub use node::{Node, Stopped};
pub use ports::free_port;
pub use probe::{LoginError, log_in};
pub use server::{Server, docker_responds, image};

use std::{
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

/// The folder of this repository.
#[must_use]
pub fn repository() -> PathBuf {
    let this = Path::new(env!("CARGO_MANIFEST_DIR"));
    let repository = this.ancestors().nth(2).unwrap_or(this);
    repository.canonicalize().unwrap_or_else(|_| repository.to_owned())
}

/// Asks every `pause` until the answer is true. Returns false if it is not within `limit`.
fn wait_until(limit: Duration, pause: Duration, mut ask: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if ask() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        sleep(pause);
    }
}
