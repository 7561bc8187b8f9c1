//! Several nodes of one cluster, in the folders `1`, `2`, … of a folder.
//!
//! The nodes use the same ports on different loopback addresses. Without epmd, Erlang assumes that all nodes listen for each other
//! on the same port.

use std::{fs, net::Ipv4Addr, path::Path};

use crate::{
    Error, Node, Server,
    node::{check_empty, created},
    record::Record,
    settings::COOKIE,
};

/// Does the work of rabbitmqctl's `stop_app`, `join_cluster` and `start_app` in one start instead of three, because each start takes
/// seconds. Since RabbitMQ 3.12 the middle function has another name.
const JOIN: &str = "
  rabbit:stop(),
  First = 'rabbit@127.0.0.1',
  ok = case code:ensure_loaded(rabbit_db_cluster) of
    {module, _} -> rabbit_db_cluster:join(First, disc);
    _ -> rabbit_mnesia:join_cluster(First, disc)
  end,
  rabbit:start().";

/// Starts a cluster in an empty folder. Each node needs its own loopback address; only Linux has more than one by default.
///
/// # Errors
/// [`Error::NeedsNative`], [`Error::NotReady`], or another reason why a node could not be started. No node runs then, and the folder is
/// kept.
pub fn start(folder: &Path, count: u8) -> Result<Vec<Node>, Error> {
    let folder = created(folder)?;
    check_empty(&folder)?;
    let nodes = create(&folder, count)?;
    let started = launch(&nodes).and_then(|()| join(&nodes));
    if started.is_err() {
        for node in &nodes {
            // The first error is the one to report.
            _ = node.kill();
        }
    }
    started.map(|()| nodes)
}

fn create(folder: &Path, count: u8) -> Result<Vec<Node>, Error> {
    let first = member(folder, 1)?;
    let first = Node::create(&first, Ipv4Addr::LOCALHOST, count)?;
    if first.record().server == Server::Docker {
        return Err(Error::NeedsNative("a cluster"));
    }
    let mut nodes = vec![first];
    for number in 2..=count {
        let record = Record { host: Ipv4Addr::new(127, 0, 0, number), ..nodes[0].record().clone() };
        nodes.push(Node::create_as(&member(folder, number)?, record)?);
    }
    Ok(nodes)
}

fn member(folder: &Path, number: u8) -> Result<std::path::PathBuf, Error> {
    created(&folder.join(number.to_string()))
}

fn launch(nodes: &[Node]) -> Result<(), Error> {
    for node in nodes {
        let (cookie, own) = (nodes[0].folder().join(COOKIE), node.folder().join(COOKIE));
        // The start of the first node writes it.
        if cookie != own {
            fs::copy(&cookie, &own).map_err(Error::io(format!("copy {}", cookie.display())))?;
        }
        node.launch()?;
    }
    Ok(())
}

fn join(nodes: &[Node]) -> Result<(), Error> {
    for (index, node) in nodes.iter().enumerate() {
        node.wait_ready()?;
        if index > 0 {
            node.ctl(&["-q", "eval", JOIN])?;
        }
    }
    Ok(())
}
