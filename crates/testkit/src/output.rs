//! The output of a process, line by line.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use serde_json::Value;
use tokio::sync::watch;

use crate::soon;

/// The lines so far.
pub struct Output {
    lines: Mutex<Lines>,
    count: watch::Sender<usize>,
}

enum Lines {
    Memory(Vec<String>),
    File(PathBuf, File),
}

impl Lines {
    fn push(&mut self, line: String) {
        match self {
            Self::Memory(lines) => lines.push(line),
            Self::File(_, file) => file.write_all((line + "\n").as_bytes()).unwrap(),
        }
    }

    /// Passes the lines from a position on to `take`. Returns the position after them.
    fn visit(&self, from: usize, mut take: impl FnMut(&str)) -> usize {
        match self {
            Self::Memory(lines) => {
                lines[from..].iter().for_each(|line| take(line));
                lines.len()
            }
            Self::File(path, _) => {
                let mut file = File::open(path).unwrap();
                file.seek(SeekFrom::Start(from as u64)).unwrap();
                let mut position = from;
                for line in BufReader::new(file).lines().map(Result::unwrap) {
                    position += line.len() + 1;
                    take(&line);
                }
                position
            }
        }
    }
}

impl Output {
    pub fn new() -> Arc<Self> {
        Self::of(Lines::Memory(Vec::new()))
    }

    /// Keeps the lines in a new file.
    pub fn to_file(path: &Path) -> Arc<Self> {
        Self::of(Lines::File(path.to_owned(), File::create(path).unwrap()))
    }

    fn of(lines: Lines) -> Arc<Self> {
        Arc::new(Self { lines: Mutex::new(lines), count: watch::Sender::new(0) })
    }

    /// Reads `source` to its end on a separate thread.
    pub fn read(self: &Arc<Self>, source: impl Read + Send + 'static) -> JoinHandle<()> {
        let output = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                output.lines.lock().unwrap().push(line);
                output.count.send_modify(|count| *count += 1);
            }
        })
    }

    /// Passes each line to `take`.
    pub fn for_each(&self, take: impl FnMut(&str)) {
        self.lines.lock().unwrap().visit(0, take);
    }

    /// The lines that contain `text`.
    fn with(&self, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        self.for_each(|line| found.extend(line.contains(text).then(|| line.to_owned())));
        found
    }

    /// The whole output.
    pub fn text(&self) -> String {
        self.with("").join("\n")
    }

    /// The number of lines that contain `text`.
    pub fn count_lines(&self, text: &str) -> usize {
        self.with(text).len()
    }

    /// The lines that are JSON.
    pub fn records(&self) -> Vec<Value> {
        self.with("").iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The records with this message.
    pub fn logged(&self, message: &str) -> Vec<Value> {
        let records = self.with(message).into_iter().filter_map(|line| serde_json::from_str(&line).ok());
        records.filter(|record: &Value| record["message"] == message).collect()
    }

    /// Waits until `times` lines in total contain `text`.
    pub async fn until(&self, text: &str, times: usize) {
        let mut count = self.count.subscribe();
        let (mut seen, mut found) = (0, 0);
        let search = async {
            loop {
                count.borrow_and_update();
                seen =
                    self.lines.lock().unwrap().visit(seen, |line| found += usize::from(line.contains(text)));
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

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[tokio::test]
    async fn output_in_a_file_is_found_as_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        for output in [Output::new(), Output::to_file(&folder.path().join("log"))] {
            let (mut sender, receiver) = std::os::unix::net::UnixStream::pair().unwrap();
            let reader = output.read(receiver);
            sender.write_all(b"{\"message\":\"one\"}\nplain \xff one\n").unwrap();
            output.until("one", 2).await;
            sender.write_all("späte one\n".as_bytes()).unwrap();
            output.until("one", 3).await;
            drop(sender);
            reader.join().unwrap();
            assert_eq!(output.text(), "{\"message\":\"one\"}\nplain \u{fffd} one\nspäte one");
            assert_eq!((output.count_lines("plain"), output.records().len()), (1, 1));
            assert_eq!(output.logged("one").len(), 1);
            output.read(Cursor::new("more")).join().unwrap();
            assert_eq!(output.count_lines("more"), 1);
        }
    }
}
