//! The program as a process of its own.

use std::{
    env,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    thread::JoinHandle,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{output::Output, poll, soon};

/// Name and value of environment variables, nothing else of the test's own environment gets through.
pub(crate) type Environment = Vec<(String, String)>;

/// Where programs run: what one writes beside itself is no part of the sources.
pub(crate) const FOLDER: &str = env!("CARGO_TARGET_TMPDIR");

/// A running program. Killed, as by a power cut, when it is dropped.
pub(crate) struct Program {
    child: Child,
    pub(crate) output: Arc<Output>,
    /// The metrics that it served at last.
    pub(crate) metrics: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// Standard output, as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// The program under test: this build's, or the one that `ICW_TEST_PROGRAM` names. With an older build a test of a defect
/// shows that it fails without the fix.
pub(crate) fn executable() -> PathBuf {
    let given = env::var_os("ICW_TEST_PROGRAM").filter(|path| !path.is_empty());
    given.unwrap_or_else(|| env!("CARGO_BIN_EXE_instant-connect-worker").into()).into()
}

fn command(arguments: &[&str], environment: &Environment) -> Command {
    let mut command = Command::new(executable());
    command.args(arguments).env_clear().envs(environment.iter().cloned()).stdin(Stdio::null());
    command.current_dir(FOLDER);
    command
}

/// Runs the program to its end.
pub(crate) async fn finished(arguments: &[&str], environment: &Environment) -> Finished {
    let mut command = command(arguments, environment);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    Finished {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// As a client of the simplest kind.
async fn scrape(address: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

impl Program {
    /// Starts `instant-connect-worker run`.
    pub(crate) fn run(environment: &Environment) -> Self {
        Self::start(&["run"], environment)
    }

    /// Starts a subcommand.
    pub(crate) fn start(arguments: &[&str], environment: &Environment) -> Self {
        let mut command = command(arguments, environment);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = Output::new();
        let readers =
            vec![output.read(child.stdout.take().unwrap()), output.read(child.stderr.take().unwrap())];
        Self { child, output, metrics: Output::new(), readers }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in KiB, as Linux counts it.
    pub(crate) fn resident_kib(&self) -> u64 {
        self.memory_kib("VmRSS:").unwrap()
    }

    /// The most resident memory that it had so far, in KiB; `None` where it has ended.
    pub(crate) fn resident_kib_max(&self) -> Option<u64> {
        self.memory_kib("VmHWM:")
    }

    fn memory_kib(&self, what: &str) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with(what))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        let status = poll("the program's end", async || self.child.try_wait().unwrap()).await;
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        status
    }

    /// SIGTERM, as an orchestrator sends it; waits for the end, which must be a good one. Keeps its metrics, to be searched.
    pub(crate) async fn stop(self) {
        let said = self.output.saying("admin server listens");
        if let Some(address) = said.first().map(|said| said["address"].as_str().unwrap().to_owned()) {
            let metrics = soon("the metrics", scrape(&address)).await;
            assert!(metrics.contains("instant_connect_build_info"), "{metrics}");
            self.metrics.read(std::io::Cursor::new(metrics)).join().unwrap();
        }
        self.signal("TERM");
        assert_eq!(self.ended().await.code(), Some(0), "the status after SIGTERM");
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// SIGKILL: no line of the program's code runs after it.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // It fails only where the program has ended already.
        _ = self.child.kill();
        _ = self.child.wait();
        self.readers.drain(..).for_each(|reader| _ = reader.join());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}
