//! The program as a process.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    thread::JoinHandle,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{output::Output, poll, soon};

/// Names and values of environment variables. The program gets no others from the test.
pub type Environment = Vec<(String, String)>;

/// The folder of Cargo's artefacts from which this test runs, such as `target/debug`.
fn artefacts() -> PathBuf {
    // The test itself is in `deps`, as each test of Cargo.
    env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned()
}

/// The working directory of programs, so that their files are not in the source tree.
pub fn folder() -> PathBuf {
    let folder = artefacts().with_file_name("tmp");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A running program. Dropping it kills it.
pub struct Program {
    child: Child,
    pub output: Arc<Output>,
    /// The last metrics that the program served.
    pub metrics: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Standard output as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// The program under test: this build's, or the one in `ICW_TEST_PROGRAM`. With an older build, a regression test
/// shows that it fails without the fix.
pub fn executable() -> PathBuf {
    let given = env::var_os("ICW_TEST_PROGRAM").filter(|path| !path.is_empty());
    given.map_or_else(|| artefacts().join("instant-connect-worker"), PathBuf::from)
}

/// The program without the sandbox, as the production image has it: the one in `ICW_TEST_PRODUCTION`, or a new build.
pub fn production() -> PathBuf {
    if let Some(path) = env::var_os("ICW_TEST_PRODUCTION") {
        return path.into();
    }
    let built = Command::new(test_broker::repository().join("scripts/production")).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    String::from_utf8(built.stdout).unwrap().trim().into()
}

fn command(arguments: &[&str], environment: &Environment) -> Command {
    let mut command = Command::new(executable());
    command.args(arguments).env_clear().envs(environment.iter().cloned()).stdin(Stdio::null());
    command.current_dir(folder());
    command
}

/// Adds settings to an environment, such as `amqp.url` as `ICW_AMQP__URL`. A value replaces an earlier one; an empty value removes the
/// setting.
pub fn with_settings<'a>(
    mut environment: Environment,
    settings: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Environment {
    for (key, value) in settings {
        let name = format!("ICW_{}", key.replace('.', "__").to_uppercase());
        environment.retain(|(known, _)| *known != name);
        if !value.is_empty() {
            environment.push((name, value.to_owned()));
        }
    }
    environment
}

/// Runs the program to its end.
pub async fn finished(arguments: &[&str], environment: &Environment) -> Finished {
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
    pub fn run(environment: &Environment) -> Self {
        Self::start(&["run"], environment)
    }

    /// Starts a subcommand.
    pub fn start(arguments: &[&str], environment: &Environment) -> Self {
        Self::spawn(command(arguments, environment), Output::new())
    }

    /// Starts `instant-connect-worker run` as `role` with its log in a file, for more lines than memory should keep.
    pub fn run_with_log(role: &str, environment: &Environment, log: &Path) -> Self {
        Self::spawn(command(&["run", "--role", role], environment), Output::to_file(log))
    }

    fn spawn(mut command: Command, output: Arc<Output>) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let readers =
            vec![output.read(child.stdout.take().unwrap()), output.read(child.stderr.take().unwrap())];
        Self { child, output, metrics: Output::new(), readers }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in KiB, as Linux counts it.
    pub fn resident_kib(&self) -> u64 {
        self.memory_kib("VmRSS:").unwrap()
    }

    /// Peak resident memory in KiB; `None` if the program has ended.
    pub fn resident_kib_max(&self) -> Option<u64> {
        self.memory_kib("VmHWM:")
    }

    fn memory_kib(&self, what: &str) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with(what))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// Returns true if the program has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the program's end.
    pub async fn ended(mut self) -> ExitStatus {
        let status = poll("the program's end", async || self.child.try_wait().unwrap()).await;
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        status
    }

    /// Sends SIGTERM and waits for the end, which must have status 0. Stores the metrics for the leak search.
    pub async fn stop(self) {
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
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Kills the program with SIGKILL.
    pub fn kill(mut self) {
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
