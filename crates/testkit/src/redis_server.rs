//! A Redis for one test, on a free port, stopped on drop.

use std::{
    env,
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use secrecy::SecretString;
use tempfile::TempDir;

use crate::free_port;

pub struct RedisServer {
    port: u16,
    child: Child,
    /// The folder of the data, if it is durable.
    folder: Option<TempDir>,
}

impl RedisServer {
    /// Starts a Redis that loses its data when it ends.
    pub fn start() -> Self {
        Self::run(None)
    }

    /// Starts a Redis that writes every confirmed command to disk.
    pub fn durable() -> Self {
        Self::run(Some(tempfile::tempdir().unwrap()))
    }

    fn run(folder: Option<TempDir>) -> Self {
        let port = free_port();
        Self { port, child: run(port, folder.as_ref()), folder }
    }

    pub fn url(&self) -> SecretString {
        format!("redis://127.0.0.1:{}/", self.port).into()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills the server.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts the server again on the same port.
    pub fn restart(&mut self) {
        self.child = run(self.port, self.folder.as_ref());
    }

    /// Sends a signal: `STOP` suspends the server with open connections, `CONT` resumes it.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Ends every lease, as if its time had passed.
    pub fn end_leases(&self) {
        let mut connection = self.connect();
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
        for key in keys {
            let [ttl]: [i64; 1] = [redis::cmd("PTTL").arg(&key).query(&mut connection).unwrap()];
            assert!(ttl > 0, "every key must expire");
            redis::cmd("HSET").arg(&key).arg("lease_until").arg(0).query::<()>(&mut connection).unwrap();
        }
    }

    pub fn connect(&self) -> redis::Connection {
        redis::Client::open(format!("redis://127.0.0.1:{}/", self.port)).unwrap().get_connection().unwrap()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn run(port: u16, folder: Option<&TempDir>) -> Child {
    let mut command = Command::new("redis-server");
    command.args([
        "--port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendfsync",
        "always",
    ]);
    command.args(["--appendonly", if folder.is_some() { "yes" } else { "no" }]);
    command.current_dir(folder.map_or_else(env::temp_dir, |folder| folder.path().to_owned()));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server runs; `make test` installs it, or `scripts/apt-install redis-server`");
    let since = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(child.try_wait().unwrap().is_none(), "redis-server ended at once");
        assert!(since.elapsed() < Duration::from_secs(20), "redis-server does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}
