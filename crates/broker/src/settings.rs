//! The files and the environment of a node that is a program on this machine.

use std::{
    env, fs,
    fs::{OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    process::Command,
};

use crate::{Server, record::Record};

/// Writes all files that a start reads. The folder may contain `more.conf` (settings) and `plugins` (names, separated by
/// commas) of the user.
pub(crate) fn write_files(folder: &Path, record: &Record) -> io::Result<()> {
    for name in ["data", "log"] {
        fs::create_dir_all(folder.join(name))?;
    }
    if !folder.join(COOKIE).exists() {
        write_cookie(&folder.join(COOKIE))?;
    }
    let plugins = read_optional(&folder.join("plugins"))?.unwrap_or_default();
    fs::write(folder.join("enabled_plugins"), format!("[{}].\n", plugins.trim()))?;
    fs::write(folder.join("rabbitmq-env.conf"), "")?;
    let more = read_optional(&folder.join("more.conf"))?.unwrap_or_default();
    fs::write(folder.join("rabbitmq.conf"), configuration(record, &more))
}

/// The secret by which the nodes of a cluster, and rabbitmqctl, know each other.
pub(crate) const COOKIE: &str = ".erlang.cookie";

fn write_cookie(path: &Path) -> io::Result<()> {
    let mut random = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    let cookie = format!("{:032x}", u128::from_ne_bytes(random));
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(cookie.as_bytes())?;
    // Erlang accepts only a cookie that nobody else may read.
    fs::set_permissions(path, Permissions::from_mode(0o400))
}

fn read_optional(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The file `rabbitmq.conf`.
fn configuration(record: &Record, more: &str) -> String {
    let Record { host, port, .. } = record;
    // A nearly full disk must not block a test's publishers.
    let mut lines =
        vec![format!("listeners.tcp.default = {host}:{port}"), "disk_free_limit.absolute = 1MB".to_owned()];
    if matches!(record.server, Server::Native { root: Some(_), .. }) {
        // Without /proc, RabbitMQ cannot read the machine's memory.
        lines.push("vm_memory_calculation_strategy = allocated".to_owned());
        lines.push("total_memory_available_override_value = 2GB".to_owned());
    }
    lines.extend(more.lines().map(ToOwned::to_owned));
    if record.nodes > 1 {
        // A node in a minority pauses until it reaches the others.
        lines.push("cluster_partition_handling = pause_minority".to_owned());
    }
    lines.join("\n") + "\n"
}

/// The node's name.
pub(crate) fn node_name(record: &Record) -> String {
    format!("rabbit@{}", record.host)
}

/// Arguments of the Erlang VM. One scheduler, because a node is small and machines have two cores.
pub(crate) fn vm_arguments(record: &Record) -> String {
    let interface = record.host.octets().map(|octet| octet.to_string()).join(",");
    format!(
        "-noinput +S 1:1 +B i -name {} -kernel inet_dist_use_interface {{{interface}}}",
        node_name(record)
    )
}

/// Gives the server or rabbitmqctl the node's environment, without the caller's settings of brokers. There is no epmd: the node
/// listens for Erlang's distribution on a fixed port, which rabbitmqctl receives as a parameter.
pub(crate) fn set_environment(command: &mut Command, folder: &Path, record: &Record) {
    for (name, _) in env::vars_os() {
        let name_bytes = name.as_encoded_bytes();
        if name_bytes.starts_with(b"RABBITMQ_") || name_bytes.starts_with(b"ERL_") {
            command.env_remove(name);
        }
    }
    command
        .current_dir(folder)
        .env("HOME", folder)
        .env("ERL_CRASH_DUMP", folder.join("log/erl_crash.dump"))
        .env("ERL_AFLAGS", distribution(record))
        .env("RABBITMQ_USE_LONGNAME", "true")
        .env("RABBITMQ_NODENAME", node_name(record))
        .env("RABBITMQ_CONF_ENV_FILE", folder.join("rabbitmq-env.conf"))
        .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
        .env("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("advanced.config"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
        .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
        .env("RABBITMQ_LOG_BASE", folder.join("log"))
        .env("RABBITMQ_PID_FILE", folder.join("rabbitmq.pid"))
        .env("RABBITMQ_DIST_PORT", record.dist_port.to_string());
}

/// Flags of each Erlang VM that takes part in the node's distribution.
pub(crate) fn distribution(record: &Record) -> String {
    format!("-start_epmd false -erl_epmd_port {}", record.dist_port)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn record(root: bool, nodes: u8) -> Record {
        let root = root.then(|| "/root-4.0".into());
        Record {
            host: Ipv4Addr::new(127, 0, 0, 3),
            port: 10_001,
            dist_port: 10_002,
            nodes,
            server: Server::Native { program: "rabbitmq-server".into(), root },
            container: String::new(),
        }
    }

    #[test]
    fn configuration_of_a_node_has_its_listener_and_the_users_settings() {
        let expected =
            "listeners.tcp.default = 127.0.0.3:10001\ndisk_free_limit.absolute = 1MB\nheartbeat = 7\n";
        assert_eq!(configuration(&record(false, 1), "heartbeat = 7\n"), expected);
    }

    #[test]
    fn configuration_depends_on_the_root_and_the_cluster() {
        let conf = configuration(&record(true, 3), "");
        assert!(conf.contains("total_memory_available_override_value"), "{conf}");
        assert!(conf.ends_with("cluster_partition_handling = pause_minority\n"), "{conf}");
    }

    #[test]
    fn vm_listens_for_other_nodes_on_its_own_address() {
        let arguments = vm_arguments(&record(false, 3));
        assert!(arguments.contains("-name rabbit@127.0.0.3 "), "{arguments}");
        assert!(arguments.ends_with("{127,0,0,3}"), "{arguments}");
    }

    #[test]
    fn files_have_a_private_cookie_which_stays() {
        let outer = crate::NodeFolder::new().unwrap();
        let folder = outer.path();
        fs::write(folder.join("plugins"), "rabbitmq_shovel\n").unwrap();
        write_files(folder, &record(false, 1)).unwrap();
        let cookie = fs::read(folder.join(COOKIE)).unwrap();
        assert_eq!(cookie.len(), 32);
        assert_eq!(fs::metadata(folder.join(COOKIE)).unwrap().permissions().mode() & 0o777, 0o400);
        write_files(folder, &record(false, 1)).unwrap();
        assert_eq!(fs::read(folder.join(COOKIE)).unwrap(), cookie);
        assert_eq!(fs::read_to_string(folder.join("enabled_plugins")).unwrap(), "[rabbitmq_shovel].\n");
    }
}
