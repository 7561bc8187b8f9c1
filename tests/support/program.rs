//! The program as a process.

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

/// Names and values of environment variables. The program gets no others from the test.
pub(crate) type Environment = Vec<(String, String)>;

/// The working directory of programs, so that their files are not in the source tree.
pub(crate) const FOLDER: &str = env!("CARGO_TARGET_TMPDIR");

/// A running program. Dropping it kills it.
pub(crate) struct Program {
    child: Child,
    pub(crate) output: Arc<Output>,
    /// The last metrics that the program served.
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
    /// Standard output as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// The program under test: this build's, or the one in `ICW_TEST_PROGRAM`. With an older build, a regression test
/// shows that it fails without the fix.
pub(crate) fn executable() -> PathBuf {
    let given = env::var_os("ICW_TEST_PROGRAM").filter(|path| !path.is_empty());
    given.unwrap_or_else(|| env!("CARGO_BIN_EXE_instant-connect-worker").into()).into()
}

/// The program without the sandbox, as the production image has it: the one in `ICW_TEST_PRODUCTION`, or a new build.
pub(crate) fn production() -> PathBuf {
    if let Some(path) = env::var_os("ICW_TEST_PRODUCTION") {
        return path.into();
    }
    let built = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/production")).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    String::from_utf8(built.stdout).unwrap().trim().into()
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

/// Reads the metrics over plain HTTP/1.0.
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

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in KiB, as Linux counts it.
    pub(crate) fn resident_kib(&self) -> u64 {
        self.memory_kib("VmRSS:").unwrap()
    }

    /// Peak resident memory in KiB; `None` if the program has ended.
    pub(crate) fn resident_kib_max(&self) -> Option<u64> {
        self.memory_kib("VmHWM:")
    }

    fn memory_kib(&self, what: &str) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with(what))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// Returns true if the program has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the program's end.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        let status = poll("the program's end", async || self.child.try_wait().unwrap()).await;
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        status
    }

    /// Sends SIGTERM and waits for the end, which must have status 0. Stores the metrics for the leak search.
    pub(crate) async fn stop(self) {
        let said = self.output.logged("admin server listens");
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

    /// Kills the program with SIGKILL.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // This fails only if the program has ended already.
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
