//! Lines on standard error while the benchmark runs.

use std::time::Instant;

use super::{report::RATES, settings::Settings};

/// The number of measurements of the whole run, and of those that are done.
pub(crate) struct Progress {
    began: Instant,
    all: usize,
    done: usize,
}

impl Progress {
    pub(crate) fn new(settings: &Settings) -> Self {
        let per_round: usize =
            settings.delays_ms.iter().map(|delay_ms| settings.contenders(*delay_ms).len()).sum();
        let rates = if settings.rates.is_empty() { RATES } else { settings.rates.len() };
        let further = rates * usize::from(settings.seconds > 0) + usize::from(settings.starts > 0);
        let all = settings.rounds * per_round + further * settings.main_contenders().len();
        Self { began: Instant::now(), all, done: 0 }
    }

    /// Prints the result of a measurement.
    pub(crate) fn done(&mut self, result: &str) {
        self.done += 1;
        let seconds = self.began.elapsed().as_secs();
        eprintln!("[{}/{}, {}:{:02}] {result}", self.done, self.all, seconds / 60, seconds % 60);
    }
}
