//! Brokers for one test, which can be stopped, killed, paused and restarted.

use std::{path::Path, sync::Arc};

use test_broker::{Error, Node, NodeFolder, cluster};
use tokio::task::spawn_blocking;

/// A node in a temporary folder. Dropping it, or the last node of its cluster, removes all of it. So does the end of the test's
/// process, even if it is killed.
#[derive(Clone)]
pub struct PrivateBroker {
    node: Node,
    _folder: Arc<NodeFolder>,
}

impl PrivateBroker {
    /// Starts a node.
    pub async fn start() -> Self {
        Self::start_nodes(|folder| Ok(vec![Node::start(folder)?])).await.remove(0)
    }

    /// Starts a cluster of `count` nodes.
    pub async fn start_cluster(count: u8) -> Vec<Self> {
        Self::start_nodes(move |folder| cluster::start(folder, count)).await
    }

    async fn start_nodes(
        start: impl FnOnce(&Path) -> Result<Vec<Node>, Error> + Send + 'static,
    ) -> Vec<Self> {
        let started = blocking("start", move || {
            let folder = NodeFolder::new()?;
            start(&folder.node()).map(|nodes| (nodes, folder))
        });
        let (nodes, folder) = started.await;
        let folder = Arc::new(folder);
        nodes.into_iter().map(|node| Self { node, _folder: Arc::clone(&folder) }).collect()
    }

    /// The URL with user and password.
    pub fn url(&self) -> String {
        self.node.url()
    }

    /// The address as `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.node.address()
    }

    /// The node's folder, in which a test may write `more.conf` and `plugins` for the next start.
    pub fn folder(&self) -> &Path {
        self.node.folder()
    }

    /// Stops the node cleanly and keeps its data.
    pub async fn stop(&self) {
        self.act("stop", |node| node.stop().map(drop)).await;
    }

    /// Kills the node, as a power failure does.
    pub async fn kill(&self) {
        self.act("kill", Node::kill).await;
    }

    /// Starts the node again on the same port with its data, and waits until it accepts logins.
    pub async fn start_again(&self) {
        self.act("start", |node| Node::start(node.folder()).map(drop)).await;
    }

    /// Restarts the node cleanly.
    pub async fn restart(&self) {
        self.act("restart", |node| node.restart().map(drop)).await;
    }

    /// Kills the node and starts it again.
    pub async fn crash_and_start(&self) {
        self.kill().await;
        self.start_again().await;
    }

    /// Pauses the node. For other nodes and for clients, it is like a network that is cut off.
    pub async fn pause(&self) {
        self.act("pause", Node::pause).await;
    }

    /// Resumes a paused node.
    pub async fn resume(&self) {
        self.act("resume", Node::resume).await;
    }

    /// Sets or clears the broker's disk alarm.
    pub async fn disk_is_full(&self, full: bool) {
        let limit = if full { "1000000GB" } else { "1MB" };
        self.ctl(&["set_disk_free_limit", limit]).await;
    }

    /// Evaluates an Erlang expression. Without epmd, rabbitmqctl's own listings cover only one node.
    pub async fn eval(&self, expression: &str) -> String {
        self.ctl(&["eval", expression]).await
    }

    /// Runs `rabbitmqctl` and returns its output.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        let arguments: Vec<String> = ["-q"].iter().chain(arguments).map(ToString::to_string).collect();
        self.act("ctl", move |node| node.ctl(&arguments)).await
    }

    /// Enables a plugin that RabbitMQ includes.
    pub async fn enable(&self, plugin: &str) {
        // Only the node knows the path of its plugins file.
        let ensure = format!(
            "{{ok, F}} = application:get_env(rabbit, enabled_plugins_file), \
             ok = file:write_file(F, \"[{plugin}].\"), {{ok, _, []}} = rabbit_plugins:ensure(F)."
        );
        self.eval(&ensure).await;
    }

    async fn act<T: Send + 'static>(
        &self,
        what: &'static str,
        act: impl FnOnce(&Node) -> Result<T, Error> + Send + 'static,
    ) -> T {
        let node = self.node.clone();
        blocking(what, move || act(&node)).await
    }
}

async fn blocking<T: Send + 'static>(
    what: &'static str,
    act: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> T {
    let done = spawn_blocking(act).await.unwrap();
    done.unwrap_or_else(|error| panic!("a private broker, {what}: {error}"))
}
