//! The process of the fake APIs, as the benchmark sees it.

use std::{
    env,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use reqwest::Client;

use super::fake;

/// The fake APIs. Dropping it ends their process.
pub(crate) struct Apis {
    child: Child,
    pub(crate) url: String,
    http: Client,
}

impl Apis {
    /// Starts fake APIs that respond after `delay_ms`.
    pub(crate) fn start(delay_ms: usize) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args([fake::FLAG, &delay_ms.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        Self { child, url: url.trim().to_owned(), http: Client::new() }
    }

    /// Waits until the messages of this number of events have arrived.
    pub(crate) async fn until(&self, served: usize) {
        self.get(&format!("until/{served}")).await;
    }

    /// Arrival of each expert's message in nanoseconds since 1970, by the event's number; 0 if it has not arrived.
    pub(crate) async fn arrivals(&self) -> Vec<u64> {
        self.get("arrivals").await.json().await.unwrap()
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        let request = self.http.get(format!("{}/bench/{path}", self.url));
        request.send().await.unwrap().error_for_status().unwrap()
    }
}

impl Drop for Apis {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
