//! The worker as a process.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use super::poll;
use crate::support::program;

/// A running worker with its log in a file. Dropping it kills it.
pub(crate) struct Worker {
    child: Child,
    log: PathBuf,
}

impl Worker {
    /// Starts the worker with only `environment`.
    pub(crate) fn start(environment: &[(String, String)], log: PathBuf) -> Self {
        let file = File::create(&log).unwrap();
        let child = Command::new(program::executable())
            .arg("run")
            .env_clear()
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// Kills the worker with SIGKILL.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// Sends SIGTERM and returns the exit status.
    pub(crate) async fn stop(mut self) -> ExitStatus {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &id]).status().unwrap().success());
        poll("the worker's end", async || self.child.try_wait().unwrap()).await
    }

    /// Number of log lines that contain `text`.
    pub(crate) fn count_lines(&self, text: &str) -> usize {
        lines(&self.log).filter(|line| line.contains(text)).count()
    }

    /// Waits until this many log lines contain `text`.
    pub(crate) async fn until_logged(&self, text: &str, times: usize) {
        let what = format!("the worker to log `{text}` {times} times");
        poll(&what, async || (self.count_lines(text) >= times).then_some(())).await;
    }

    fn end(&mut self) {
        // This fails only if the worker has ended already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

/// The lines of a log.
pub(crate) fn lines(log: &Path) -> impl Iterator<Item = String> {
    BufReader::new(File::open(log).unwrap())
        .split(b'\n')
        .map_while(Result::ok)
        .map(|line| String::from_utf8_lossy(&line).into_owned())
}
