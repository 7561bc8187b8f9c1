//! Progress on standard error: one line that changes on a terminal, otherwise a line every ten seconds.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use crate::dead::Progress;

/// Width of the bar, in characters.
const WIDTH: u32 = 30;

/// Progress line of one queue.
pub(super) struct Line {
    action: &'static str,
    name: &'static str,
    terminal: bool,
    every: Duration,
    written_at: Instant,
    last: Progress,
}

impl Line {
    pub(super) fn new(action: &'static str, name: &'static str) -> Self {
        let terminal = io::stderr().is_terminal();
        let every = if terminal { Duration::from_millis(100) } else { Duration::from_secs(10) };
        Self { action, name, terminal, every, written_at: Instant::now(), last: Progress::default() }
    }

    pub(super) fn update(&mut self, progress: Progress) {
        self.last = progress;
        if self.written_at.elapsed() >= self.every {
            self.written_at = Instant::now();
            self.write(if self.terminal { "" } else { "\n" });
        }
    }

    /// Completes the bar, if one is shown.
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
        let count = if done > 0 { format!(", {done} {}", self.action) } else { String::new() };
        // An error here means that standard error is closed.
        _ = write!(io::stderr(), "{bar}{}: {seen} of {total}{count}{end}", self.name);
    }
}
