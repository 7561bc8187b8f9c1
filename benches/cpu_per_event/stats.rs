//! Medians, spreads and percentiles.

use serde::Serialize;

/// The median, the smallest and the largest of several values.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let lower = if values.len().is_multiple_of(2) { middle - 1 } else { middle };
        Self {
            median: f64::midpoint(values[lower], values[middle]),
            min: values[0],
            max: values[values.len() - 1],
        }
    }

    /// As `median (min–max)`.
    pub(crate) fn text(&self, decimals: usize) -> String {
        let Self { median, min, max } = self;
        format!("{median:.decimals$} ({min:.decimals$}–{max:.decimals$})")
    }
}

/// Percentiles of latencies, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Percentiles {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        // The nearest rank.
        let at = |percent: usize| values[(values.len() * percent).div_ceil(100).max(1) - 1];
        Self { p50: at(50), p95: at(95), p99: at(99), max: at(100) }
    }

    /// As `p50 / p95 / p99`.
    pub(crate) fn text(&self) -> String {
        let Self { p50, p95, p99, .. } = self;
        format!("{p50:.1} / {p95:.1} / {p99:.1}")
    }
}
