//! How far something is, on standard error: one line that changes on a terminal, else a line now and then.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use crate::dead::Progress;

/// The cells of the bar.
const WIDTH: u32 = 30;

/// Tells how far one queue is.
pub(super) struct Line {
    what: &'static str,
    name: &'static str,
    terminal: bool,
    every: Duration,
    told: Instant,
    last: Progress,
}

impl Line {
    pub(super) fn new(what: &'static str, name: &'static str) -> Self {
        let terminal = io::stderr().is_terminal();
        let every = if terminal { Duration::from_millis(100) } else { Duration::from_secs(10) };
        Self { what, name, terminal, every, told: Instant::now(), last: Progress::default() }
    }

    pub(super) fn tell(&mut self, progress: Progress) {
        self.last = progress;
        if self.told.elapsed() >= self.every {
            self.told = Instant::now();
            self.write(if self.terminal { "" } else { "\n" });
        }
    }

    /// The last word, where there is a bar to be finished.
    pub(super) fn end(&self) {
        if self.terminal && self.last.total > 0 {
            self.write("\n");
        }
    }

    fn write(&self, end: &str) {
        let Progress { seen, total, done } = self.last;
        let bar = if self.terminal {
            let full = u64::from(seen) * u64::from(WIDTH) / u64::from(total.max(1));
            let full = usize::try_from(full).unwrap_or(0).min(WIDTH as usize);
            format!("\r[{}{}] ", "#".repeat(full), " ".repeat(WIDTH as usize - full))
        } else {
            String::new()
        };
        let count = if done > 0 { format!(", {done} {}", self.what) } else { String::new() };
        // Where standard error is gone nobody can be told.
        _ = write!(io::stderr(), "{bar}{}: {seen} of {total}{count}{end}", self.name);
    }
}
