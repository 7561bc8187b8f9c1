//! Brokers of `scripts/broker` of a run's own, which may be stopped, killed and made to stand still.

use std::{path::PathBuf, process::Command};

use tempfile::TempDir;

/// A node, or the nodes of a cluster, in a folder of their own, gone with the value.
pub(crate) struct Nodes {
    folder: TempDir,
    count: usize,
    urls: Vec<String>,
}

impl Nodes {
    /// Starts so many, of one cluster.
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

    /// Of all nodes.
    pub(crate) fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Stops one in good order; its state stays.
    pub(crate) async fn stop(&self, node: usize) {
        self.ask("stop", node).await;
    }

    /// Ends one as a power cut would.
    pub(crate) async fn kill(&self, node: usize) {
        self.ask("kill", node).await;
    }

    /// Starts one again; it takes logins when this is over.
    pub(crate) async fn start_again(&self, node: usize) {
        self.ask("start", node).await;
    }

    /// Has one stand still: to the others, and to its clients, it is a network that is cut off.
    pub(crate) async fn pause(&self, node: usize) {
        self.ask("pause", node).await;
    }

    /// Has it go on.
    pub(crate) async fn resume(&self, node: usize) {
        self.ask("resume", node).await;
    }

    /// Has nodes give one up of which they have heard nothing for so long; it is a minute where nothing is set.
    pub(crate) async fn give_a_silent_one_up_after(&self, seconds: u32) {
        for node in 0..self.count {
            self.eval(node, format!("net_kernel:set_net_ticktime({seconds}, 0).")).await;
        }
    }

    /// Has the broker believe that its disk is full, or not any more.
    pub(crate) async fn disk_is_full(&self, full: bool) {
        let limit = if full { "1000000GB" } else { "1MB" };
        self.ctl(0, vec!["set_disk_free_limit".to_owned(), limit.to_owned()]).await;
    }

    /// The number of the node that leads a queue, asked of node `asked`; it has a copy on each.
    pub(crate) async fn leader_of(&self, queue: &str, asked: usize) -> usize {
        let told = self
            .eval(
                asked,
                format!(
                    "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"{queue}\">>)), \
                     {{_, Leader}} = amqqueue:get_pid(Q), \
                     {{length(maps:get(nodes, amqqueue:get_type_state(Q))), Leader}}."
                ),
            )
            .await;
        assert!(told.starts_with(&format!("{{{},", self.count)), "{queue}: {told}");
        self.number_in(&told)
    }

    /// The number of the node that a worker's connection for `purpose` is with, asked of node `asked`.
    pub(crate) async fn of_connection(&self, purpose: &str, asked: usize) -> usize {
        let told = self
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
        self.number_in(&told)
    }

    /// Of the one node that `told` names, as `rabbit@127.0.0.{number + 1}`.
    fn number_in(&self, told: &str) -> usize {
        let (_, name) = told.split_once("rabbit@127.0.0.").unwrap();
        let number: usize = name.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        assert!((1..=self.count).contains(&number), "{told}");
        number - 1
    }

    /// What Erlang on a node says. Of rabbitmqctl's own listings a node without epmd has only its own part.
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
        "`scripts/broker {action}` failed; is there no RabbitMQ here? Run `make test`.\n{errors}"
    );
    String::from_utf8(output.stdout).unwrap()
}
