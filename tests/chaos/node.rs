//! Own brokers of a run from `scripts/broker`, which can be stopped, killed and paused.

use std::{path::PathBuf, process::Command};

use tempfile::TempDir;

/// A single node or a cluster in a temporary folder. Dropping it removes the nodes.
pub(crate) struct Nodes {
    folder: TempDir,
    count: usize,
    urls: Vec<String>,
}

impl Nodes {
    /// Starts a single node, or a cluster of `count` nodes.
    pub(crate) async fn start(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node");
        let urls = if count == 1 {
            blocking(move || script("start", path, &[])).await
        } else {
            blocking(move || script("cluster", path, &[count.to_string()])).await
        };
        let urls = urls.trim().split(',').map(ToOwned::to_owned).collect();
        Self { folder, count, urls }
    }

    /// The URLs of all nodes.
    pub(crate) fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Stops a node cleanly and keeps its data.
    pub(crate) async fn stop(&self, node: usize) {
        self.ask("stop", node).await;
    }

    /// Kills a node, as a power failure does.
    pub(crate) async fn kill(&self, node: usize) {
        self.ask("kill", node).await;
    }

    /// Starts a node again and waits until it accepts logins.
    pub(crate) async fn start_again(&self, node: usize) {
        self.ask("start", node).await;
    }

    /// Pauses a node. For the others and for clients, it is like a network that is cut off.
    pub(crate) async fn pause(&self, node: usize) {
        self.ask("pause", node).await;
    }

    /// Resumes a paused node.
    pub(crate) async fn resume(&self, node: usize) {
        self.ask("resume", node).await;
    }

    /// Sets the time after which nodes drop a node that does not respond. The default is a minute.
    pub(crate) async fn set_net_ticktime(&self, seconds: u32) {
        for node in 0..self.count {
            self.eval(node, format!("net_kernel:set_net_ticktime({seconds}, 0).")).await;
        }
    }

    /// Sets or clears the broker's disk alarm.
    pub(crate) async fn disk_is_full(&self, full: bool) {
        let limit = if full { "1000000GB" } else { "1MB" };
        self.ctl(0, vec!["set_disk_free_limit".to_owned(), limit.to_owned()]).await;
    }

    /// The number of the node that leads a queue, as node `asked` sees it. The queue must have a copy on each node.
    pub(crate) async fn leader_of(&self, queue: &str, asked: usize) -> usize {
        let output = self
            .eval(
                asked,
                format!(
                    "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"{queue}\">>)), \
                     {{_, Leader}} = amqqueue:get_pid(Q), \
                     {{length(maps:get(nodes, amqqueue:get_type_state(Q))), Leader}}."
                ),
            )
            .await;
        assert!(output.starts_with(&format!("{{{},", self.count)), "{queue}: {output}");
        self.number_in(&output)
    }

    /// The number of the node to which the worker's connection for `purpose` leads, as node `asked` sees it.
    pub(crate) async fn of_connection(&self, purpose: &str, asked: usize) -> usize {
        let output = self
            .eval(
                asked,
                format!(
                    "[node(C) || C <- rabbit_networking:connections(), \
                     [{{_, Ps}}] <- [rabbit_networking:connection_info(C, [client_properties])], \
                     {{<<\"connection_name\">>, _, Name}} <- Ps, \
                     binary:match(Name, <<\"{purpose}\">>) =/= nomatch]."
                ),
            )
            .await;
        self.number_in(&output)
    }

    /// The number of the only node in `output`, which is named `rabbit@127.0.0.{number + 1}`.
    fn number_in(&self, output: &str) -> usize {
        let (_, name) = output.split_once("rabbit@127.0.0.").unwrap();
        let number: usize = name.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        assert!((1..=self.count).contains(&number), "{output}");
        number - 1
    }

    /// Evaluates an Erlang expression on a node. Without epmd, rabbitmqctl's own listings cover only one node.
    async fn eval(&self, node: usize, expression: String) -> String {
        self.ctl(node, vec!["--quiet".to_owned(), "eval".to_owned(), expression]).await
    }

    async fn ctl(&self, node: usize, arguments: Vec<String>) -> String {
        let path = self.path(node);
        blocking(move || script("ctl", path, &arguments)).await
    }

    async fn ask(&self, action: &'static str, node: usize) {
        let path = self.path(node);
        blocking(move || script(action, path, &[])).await;
    }

    fn path(&self, node: usize) -> PathBuf {
        let all = self.folder.path().join("node");
        if self.count == 1 { all } else { all.join((node + 1).to_string()) }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        script("remove", self.folder.path().join("node"), &[]);
    }
}

async fn blocking(act: impl FnOnce() -> String + Send + 'static) -> String {
    tokio::task::spawn_blocking(act).await.unwrap()
}

fn script(action: &str, node: PathBuf, more: &[String]) -> String {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/broker");
    let output = Command::new(script).arg(action).arg(node).args(more).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() || std::thread::panicking(),
        "`scripts/broker {action}` failed; if RabbitMQ is missing, run `make test`\n{errors}"
    );
    String::from_utf8(output.stdout).unwrap()
}
