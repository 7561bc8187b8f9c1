//! The worker as a process.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use super::poll;
use crate::support::program;

/// A running worker, whose log goes to a file. Killed when it is dropped.
pub(crate) struct Worker {
    child: Child,
    log: PathBuf,
}

impl Worker {
    /// Starts it with nothing but `environment`.
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

    /// SIGKILL: no line of its code runs after it.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// SIGTERM, and how it ended.
    pub(crate) async fn stop(mut self) -> ExitStatus {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &id]).status().unwrap().success());
        poll("the worker's end", async || self.child.try_wait().unwrap()).await
    }

    /// How many lines of its log have `text`.
    pub(crate) fn says(&self, text: &str) -> usize {
        lines(&self.log).filter(|line| line.contains(text)).count()
    }

    /// Waits until so many lines of its log have `text`.
    pub(crate) async fn until_it_says(&self, text: &str, times: usize) {
        let what = format!("the worker to say `{text}` {times} times");
        poll(&what, async || (self.says(text) >= times).then_some(())).await;
    }

    fn end(&mut self) {
        // It fails only where it has ended already.
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
