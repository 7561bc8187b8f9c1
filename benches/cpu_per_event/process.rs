//! The measured process.

use std::{
    fs::{self, File},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use testkit::program::Environment;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{contender::Contender, cost::Snapshot};

/// Time limit of each wait for the process.
const LIMIT: Duration = Duration::from_secs(900);

/// A running contender. Dropping it kills it.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    /// Its working directory, with its log and its ledger.
    folder: TempDir,
    scraping: JoinHandle<()>,
}

impl Process {
    /// Starts `contender` with these environment variables and its own.
    pub(crate) fn start(contender: &Contender, environment: &Environment, collector: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (program, argument) = contender.command();
        let log = File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(program);
        // Another process may take a set port.
        let admin = format!("127.0.0.1:{}", testkit::free_port());
        command.arg(argument).env_clear().env("ICW_ADMIN__LISTEN", &admin);
        command.envs(environment.iter().cloned()).envs(contender.environment(collector));
        command.current_dir(&folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap();
        let scraping = tokio::spawn(scrape(contender.has_metrics().then_some(admin)));
        Self { name: contender.name, child, folder, scraping }
    }

    /// Its counters now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot::of(self.child.id())
    }

    /// Waits for `done`. Panics if the process ends before.
    pub(crate) async fn until(&mut self, done: impl Future<Output = ()>) {
        let mut done = Box::pin(timeout(LIMIT, done));
        loop {
            tokio::select! {
                waited = &mut done => return waited.expect("events are processed in time"),
                () = sleep(Duration::from_secs(1)) => {
                    let log = || fs::read_to_string(self.folder.path().join("log")).unwrap();
                    assert!(self.child.try_wait().unwrap().is_none(), "{} ended: {}", self.name, log());
                }
            }
        }
    }

    /// Stops its threads, so that its queue can be filled.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) async fn stop(mut self) {
        self.signal(Signal::TERM);
        while self.child.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.scraping.abort();
        // This fails only if the process has ended already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Scrapes the metrics much more often than a Prometheus does.
async fn scrape(admin: Option<String>) {
    let Some(admin) = admin else { return };
    let http = reqwest::Client::new();
    loop {
        sleep(Duration::from_secs(1)).await;
        // A failure is fine: the server may not listen yet, or the version has no metrics.
        if let Ok(answer) = http.get(format!("http://{admin}/metrics")).send().await {
            _ = answer.bytes().await;
        }
    }
}
