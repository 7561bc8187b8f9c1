//! The journal: the last steps as text, all steps as a hash.

use std::{
    collections::VecDeque,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
};

use tokio::time::Instant;

/// Number of the last steps that a failure shows.
const SHOWN: usize = 80;

/// The steps of a history.
pub(super) struct Journal {
    begun: Instant,
    steps: u64,
    hash: DefaultHasher,
    last: VecDeque<String>,
    print: bool,
}

impl Journal {
    /// An empty journal, which prints all steps if `print`.
    pub(super) fn new(print: bool) -> Self {
        Self { begun: Instant::now(), steps: 0, hash: DefaultHasher::new(), last: VecDeque::new(), print }
    }

    /// Writes a step. Returns the number of steps so far.
    pub(super) fn write(&mut self, step: fmt::Arguments<'_>) -> u64 {
        self.steps += 1;
        let line = format!("{:>10.3} {step}", self.begun.elapsed().as_secs_f64());
        line.hash(&mut self.hash);
        if self.print {
            print(&line);
        }
        self.last.push_back(line);
        if self.last.len() > SHOWN {
            self.last.pop_front();
        }
        self.steps
    }

    /// The hash of all steps.
    pub(super) fn hash(&self) -> u64 {
        self.hash.finish()
    }

    pub(super) fn last_steps(&self) -> String {
        self.last.iter().fold(String::new(), |text, line| text + line + "\n")
    }
}

#[allow(clippy::print_stderr, reason = "printed on request, to find a bug")]
fn print(line: &str) {
    eprintln!("{line}");
}
