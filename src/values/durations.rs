//! Durations, alone and as the delays of the delay queues.

use std::{fmt, time::Duration};

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, de::Error};

/// The longest duration.
const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);

/// The duration that a string gives, if it is not negative.
fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Option<Duration> {
    let span = String::deserialize(deserializer).ok()?.parse::<SignedDuration>().ok()?;
    Duration::try_from(span).ok()
}

/// A duration, more than zero and at most a year.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(Duration);

impl Period {
    /// The duration.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl fmt::Debug for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer)
            .filter(|span| !span.is_zero() && *span <= YEAR)
            .map(Self)
            .ok_or_else(|| D::Error::custom("expected a duration such as \"500ms\", \"30s\", \"5m\" or \"2h\", above zero and at most a year"))
    }
}

/// A duration, at most a year. Zero means "none".
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PeriodOrZero(Duration);

impl PeriodOrZero {
    /// The duration.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl fmt::Debug for PeriodOrZero {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for PeriodOrZero {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer).filter(|span| *span <= YEAR).map(Self).ok_or_else(|| {
            D::Error::custom(
                "expected a duration such as \"0s\", \"500ms\", \"30s\" or \"2h\", at most a year",
            )
        })
    }
}

/// Reads a [`Period`] as a duration.
pub(crate) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    Period::deserialize(deserializer).map(Period::get)
}

/// The delays of the delay queues: ascending, in whole milliseconds, at least one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<Period>")]
pub struct Delays(Vec<Duration>);

impl Delays {
    /// The delays, shortest first.
    #[must_use]
    pub fn as_slice(&self) -> &[Duration] {
        &self.0
    }
}

impl TryFrom<Vec<Period>> for Delays {
    type Error = &'static str;

    fn try_from(periods: Vec<Period>) -> Result<Self, Self::Error> {
        periods.into_iter().map(Period::get).collect::<Vec<_>>().try_into()
    }
}

impl TryFrom<Vec<Duration>> for Delays {
    type Error = &'static str;

    fn try_from(delays: Vec<Duration>) -> Result<Self, Self::Error> {
        let valid = (1..=20).contains(&delays.len())
            && delays.windows(2).all(|pair| pair[0] < pair[1])
            && delays.iter().all(|delay| delay.subsec_nanos() % 1_000_000 == 0);
        if valid {
            Ok(Self(delays))
        } else {
            Err("expected 1 to 20 ascending durations in whole milliseconds, such as [\"1s\", \"30s\"]")
        }
    }
}
