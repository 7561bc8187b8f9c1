//! A broker of `scripts/broker`: one that tests share, or one of our own that may be stopped and killed.

use std::{path::PathBuf, process::Command};

use tempfile::TempDir;

/// A node, in a folder of its own, gone with the value.
pub(crate) struct Node {
    folder: TempDir,
    url: String,
}

impl Node {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node");
        let url = blocking(move || script(&["start"], path)).await;
        Self { folder, url: url.trim().to_owned() }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Stops it in good order and starts it again; it takes logins when this is over.
    pub(crate) async fn restart(&self) {
        self.ask(&["stop"]).await;
        self.ask(&["start"]).await;
    }

    /// Ends it as a power cut would, and starts it again; it takes logins when this is over.
    pub(crate) async fn crash_and_start(&self) {
        self.ask(&["kill"]).await;
        self.ask(&["start"]).await;
    }

    /// Has the broker believe that its disk is full, or not any more.
    pub(crate) async fn disk_is_full(&self, full: bool) {
        let limit = if full { "1000000GB" } else { "1MB" };
        let path = self.path();
        blocking(move || script_with("ctl", path, &["-q", "set_disk_free_limit", limit])).await;
    }

    async fn ask(&self, action: &'static [&'static str]) {
        let path = self.path();
        blocking(move || script(action, path)).await;
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("node")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        script(&["remove"], self.path());
    }
}

async fn blocking(act: impl FnOnce() -> String + Send + 'static) -> String {
    tokio::task::spawn_blocking(act).await.unwrap()
}

fn script(action: &[&str], node: PathBuf) -> String {
    script_with(action[0], node, &action[1..])
}

fn script_with(action: &str, node: PathBuf, more: &[&str]) -> String {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/broker");
    let output = Command::new(script).arg(action).arg(node).args(more).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() || std::thread::panicking(),
        "`scripts/broker {action}` failed; is there no RabbitMQ here? Run `make test`.\n{errors}"
    );
    String::from_utf8(output.stdout).unwrap()
}
