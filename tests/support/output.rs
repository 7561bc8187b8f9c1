//! The output of a process, line by line.

use std::{
    io::{BufRead, BufReader, Read},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use serde_json::Value;
use tokio::sync::watch;

use super::soon;

/// The lines so far.
pub(crate) struct Output {
    lines: Mutex<Vec<String>>,
    count: watch::Sender<usize>,
}

impl Output {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { lines: Mutex::default(), count: watch::Sender::new(0) })
    }

    /// Reads `source` to its end on a separate thread.
    pub(crate) fn read(self: &Arc<Self>, source: impl Read + Send + 'static) -> JoinHandle<()> {
        let output = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                output.lines.lock().unwrap().push(line);
                output.count.send_modify(|count| *count += 1);
            }
        })
    }

    /// The whole output.
    pub(crate) fn text(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// The lines that are JSON.
    pub(crate) fn records(&self) -> Vec<Value> {
        self.lines.lock().unwrap().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The records with this message.
    pub(crate) fn logged(&self, message: &str) -> Vec<Value> {
        self.records().into_iter().filter(|record| record["message"] == message).collect()
    }

    /// Waits until `times` lines in total contain `text`.
    pub(crate) async fn until(&self, text: &str, times: usize) {
        let mut count = self.count.subscribe();
        let (mut seen, mut found) = (0, 0);
        let search = async {
            loop {
                count.borrow_and_update();
                {
                    let lines = self.lines.lock().unwrap();
                    found += lines[seen..].iter().filter(|line| line.contains(text)).count();
                    seen = lines.len();
                }
                if found >= times {
                    return;
                }
                // This fails only without a sender, but `self` is one.
                count.changed().await.unwrap();
            }
        };
        soon(&format!("the program to log `{text}` {times} times"), search).await;
    }
}
