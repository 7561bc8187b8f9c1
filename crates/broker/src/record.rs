//! The file `node` in a node's folder: the values that must survive a stop.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use crate::{Error, Server};

/// A node's values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) host: Ipv4Addr,
    pub(crate) port: u16,
    /// The port of Erlang's distribution.
    pub(crate) dist_port: u16,
    /// The number of nodes in the cluster.
    pub(crate) nodes: u8,
    pub(crate) server: Server,
    /// The container's name.
    pub(crate) container: String,
}

impl Record {
    fn text(&self) -> String {
        let (program, root) = match &self.server {
            Server::Native { program, root } => (program.display().to_string(), root.as_ref()),
            Server::Docker => (String::new(), None),
        };
        let root = root.map(|root| root.display().to_string()).unwrap_or_default();
        let Self { host, port, dist_port, nodes, container, .. } = self;
        format!(
            "host={host}\nport={port}\ndist_port={dist_port}\nnodes={nodes}\n\
             program={program}\nroot={root}\ncontainer={container}\n"
        )
    }

    /// Returns the key that is missing or has a wrong value.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let value = |key: &'static str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.ok_or(key)
        };
        let number = |key| value(key)?.parse::<u16>().map_err(|_| key);
        let path = |key| value(key).map(|path| Some(PathBuf::from(path)).filter(|_| !path.is_empty()));
        let server = match path("program")? {
            Some(program) => Server::Native { program, root: path("root")? },
            None => Server::Docker,
        };
        Ok(Self {
            host: value("host")?.parse().map_err(|_| "host")?,
            port: number("port")?,
            dist_port: number("dist_port")?,
            nodes: value("nodes")?.parse().map_err(|_| "nodes")?,
            server,
            container: value("container")?.to_owned(),
        })
    }

    pub(crate) fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("node");
        let text = fs::read_to_string(&path).map_err(|_| Error::NotANode(folder.to_owned()))?;
        Self::parse(&text).map_err(|key| Error::BadRecord { path, key })
    }

    /// Another process reads either the old values or the new ones.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Error> {
        let (new, path) = (folder.join("node.new"), folder.join("node"));
        let written = fs::write(&new, self.text()).and_then(|()| fs::rename(&new, &path));
        written.map_err(Error::io(format!("write {}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(server: Server) -> Record {
        let host = Ipv4Addr::new(127, 0, 0, 2);
        Record { host, port: 10_001, dist_port: 10_002, nodes: 3, server, container: String::new() }
    }

    #[test]
    fn record_reads_what_it_wrote() {
        let native = |root| Server::Native { program: "/usr/bin/rabbitmq-server".into(), root };
        for server in [native(None), native(Some("/a root".into())), Server::Docker] {
            let record = Record { container: "icw-1".into(), ..record(server) };
            assert_eq!(Record::parse(&record.text()), Ok(record));
        }
    }

    #[test]
    fn record_names_the_key_that_is_wrong() {
        let text = record(Server::Docker).text();
        assert_eq!(Record::parse(&text.replace("port=10001", "port=x")), Err("port"));
        assert_eq!(Record::parse(&text.replace("nodes=3\n", "")), Err("nodes"));
    }
}
