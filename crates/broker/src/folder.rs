//! A temporary folder whose nodes do not outlive this process.

use std::{
    env,
    fs::DirBuilder,
    io,
    os::unix::{fs::DirBuilderExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::{Error, Node, ports, release_4};

/// Ends when its standard input is closed, which also happens when the owner is killed. Then kills each node that is left, and
/// deletes the folder. A shell, because the owner can be any program, and most programs can't run a part of themselves.
const WATCHER: &str = r#"
read -r _
for node in "$1"/node "$1"/node/*; do
  container=$(sed -n 's/^container=//p' "$node/node" 2>/dev/null)
  if [ -n "$container" ] && grep -qx 'program=' "$node/node"; then docker rm -fv "$container"; fi
  pid=$(cat "$node/pid" 2>/dev/null)
  [ -n "$pid" ] || continue
  if [ -d /proc/self ]; then line=$(tr '\0' ' ' <"/proc/$pid/cmdline"); else line=$(ps -o args= -p "$pid"); fi
  case $line in *"$node"*) kill -KILL -- "-$pid" || kill -KILL "$pid" ;; esac
done
rm -rf "$1"
"#;

/// A temporary folder for a node or a cluster. Dropping it kills the nodes and deletes the folder. The same happens when this process
/// ends in any other way.
#[derive(Debug)]
pub struct NodeFolder {
    path: PathBuf,
    watcher: Child,
}

impl NodeFolder {
    /// Creates a folder in the system's folder for temporary files, or in that of RabbitMQ 4.0 if it is requested.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::UnknownRelease`].
    pub fn new() -> Result<Self, Error> {
        let parent = if release_4::requested()? { release_4::temporary() } else { env::temp_dir() };
        let failed = || Error::io(format!("create a folder in {}", parent.display()));
        let path = create_in(&parent).map_err(failed())?;
        // A group of its own, so that Ctrl-C does not reach it.
        let mut command = Command::new("sh");
        command.args(["-c", WATCHER, "sh"]).arg(&path).process_group(0);
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let watcher = command.spawn().map_err(failed())?;
        Ok(Self { path, watcher })
    }

    /// The folder of the node, or of the cluster's nodes. It does not exist at first.
    #[must_use]
    pub fn node(&self) -> PathBuf {
        self.path.join("node")
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for NodeFolder {
    fn drop(&mut self) {
        // What fails here, the watcher does again.
        for node in Node::open_all(&self.node()).unwrap_or_default() {
            _ = node.remove();
        }
        drop(self.watcher.stdin.take());
        _ = self.watcher.wait();
    }
}

/// Creates an empty folder that nobody else can read.
fn create_in(parent: &Path) -> io::Result<PathBuf> {
    let path = parent.join(format!("icw-broker-{:016x}", ports::random()));
    DirBuilder::new().mode(0o700).create(&path)?;
    path.canonicalize()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::process::ExitStatusExt as _};

    use super::*;

    /// A process that looks like a node of the folder.
    fn pretend_node(folder: &Path) -> Child {
        let node = folder.join("node");
        fs::create_dir(&node).unwrap();
        // `read` waits in the shell itself, so no child of it remains.
        let mut command = Command::new("sh");
        command.args(["-c", "read _", "sh"]).arg(&node).stdin(Stdio::piped()).process_group(0);
        let child = command.spawn().unwrap();
        fs::write(node.join("pid"), child.id().to_string()).unwrap();
        child
    }

    #[test]
    fn watcher_kills_the_node_and_deletes_the_folder_after_the_owners_end() {
        let mut folder = NodeFolder::new().unwrap();
        let path = folder.path().to_owned();
        let mut node = pretend_node(&path);
        // The end of the owner closes this.
        drop(folder.watcher.stdin.take());
        assert!(folder.watcher.wait().unwrap().success());
        assert_eq!(node.wait().unwrap().signal(), Some(9));
        assert!(!path.exists());
    }

    #[test]
    fn watcher_leaves_a_process_alone_that_only_has_a_nodes_number() {
        let folder = NodeFolder::new().unwrap();
        let mut stranger = Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        fs::create_dir(folder.node()).unwrap();
        fs::write(folder.node().join("pid"), stranger.id().to_string()).unwrap();
        drop(folder);
        assert_eq!(stranger.try_wait().unwrap(), None);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
