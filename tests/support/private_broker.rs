//! A broker for one test, which can be stopped, killed and restarted. Dropping it removes it.

use std::{path::PathBuf, process::Command};

use tempfile::TempDir;

/// A node of `scripts/broker` in a temporary folder.
pub(crate) struct PrivateBroker {
    folder: TempDir,
    url: String,
}

impl PrivateBroker {
    /// Starts a node.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = folder.path().join("node");
        let url = tokio::task::spawn_blocking(move || script("start", node)).await.unwrap();
        Self { folder, url: url.trim().to_owned() }
    }

    /// The URL with user and password.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The address as `127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> String {
        self.url.split(['@', '/']).nth(3).unwrap().to_owned()
    }

    /// The node's folder; `scripts/broker` documents the files that a test may add.
    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().join("node").canonicalize().unwrap()
    }

    /// Stops the node cleanly and keeps its data.
    pub(crate) async fn stop(&self) {
        self.ask("stop").await;
    }

    /// Starts the node again on the same port with its data.
    pub(crate) async fn start_again(&self) {
        self.ask("start").await;
    }

    /// Restarts the node cleanly.
    pub(crate) async fn restart(&self) {
        self.ask("restart").await;
    }

    /// Kills the node, as a power failure does, and starts it again.
    pub(crate) async fn crash_and_start(&self) {
        self.ask("kill").await;
        self.ask("start").await;
    }

    /// Sets or clears the broker's disk alarm.
    pub(crate) async fn disk_is_full(&self, full: bool) {
        let limit = if full { "1000000GB" } else { "1MB" };
        let node = self.folder.path().join("node");
        let set = move || script_with("ctl", node, &["-q", "set_disk_free_limit", limit]);
        tokio::task::spawn_blocking(set).await.unwrap();
    }

    /// Runs `rabbitmqctl` and returns its output.
    pub(crate) async fn ctl(&self, arguments: &[&str]) -> String {
        let node = self.folder.path().join("node");
        let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let run = move || {
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            script_with("ctl", node, &[&["-q"], &arguments[..]].concat())
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    /// Enables a plugin that RabbitMQ includes.
    pub(crate) async fn enable(&self, plugin: &str) {
        // Only the node knows the path of its plugins file.
        let ensure = format!(
            "{{ok, F}} = application:get_env(rabbit, enabled_plugins_file), \
             ok = file:write_file(F, \"[{plugin}].\"), {{ok, _, []}} = rabbit_plugins:ensure(F)."
        );
        self.ctl(&["eval", &ensure]).await;
    }

    async fn ask(&self, action: &'static str) {
        let node = self.folder.path().join("node");
        tokio::task::spawn_blocking(move || script(action, node)).await.unwrap();
    }
}

impl Drop for PrivateBroker {
    fn drop(&mut self) {
        script("remove", self.folder.path().join("node"));
    }
}

fn script(action: &str, node: PathBuf) -> String {
    script_with(action, node, &[])
}

fn script_with(action: &str, node: PathBuf, more: &[&str]) -> String {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/broker");
    let output = Command::new(script).arg(action).arg(node).args(more).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() || std::thread::panicking(),
        "`scripts/broker {action}` failed; if RabbitMQ is missing, run `make test`\n{errors}"
    );
    String::from_utf8(output.stdout).unwrap()
}
