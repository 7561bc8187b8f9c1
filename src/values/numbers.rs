//! Numbers within limits.

use std::fmt;

use serde::{Deserialize, Deserializer, de::Error};

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Bounded<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Bounded<MIN, MAX> {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number as a length.
    #[must_use]
    pub const fn size(self) -> usize {
        self.0 as usize
    }
}

impl<const MIN: u32, const MAX: u32> fmt::Debug for Bounded<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Bounded<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer).ok().and_then(|number| u32::try_from(number).ok());
        match number {
            Some(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            _ => Err(D::Error::custom(format_args!("expected a whole number from {MIN} to {MAX}"))),
        }
    }
}

/// A number from `MIN` to `MAX`, fractions allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factor<const MIN: u32, const MAX: u32>(f64);

impl<const MIN: u32, const MAX: u32> Factor<MIN, MAX> {
    /// The number.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Factor<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match f64::deserialize(deserializer) {
            Ok(number) if (f64::from(MIN)..=f64::from(MAX)).contains(&number) => Ok(Self(number)),
            _ => Err(D::Error::custom(format_args!("expected a number from {MIN} to {MAX}"))),
        }
    }
}

/// Reads a whole number from `MIN` to `MAX`.
pub(crate) fn whole<'de, D: Deserializer<'de>, const MIN: u32, const MAX: u32>(
    deserializer: D,
) -> Result<u32, D::Error> {
    Bounded::<MIN, MAX>::deserialize(deserializer).map(Bounded::get)
}

/// Reads a number from `MIN` to `MAX`, fractions allowed.
pub(crate) fn factor<'de, D: Deserializer<'de>, const MIN: u32, const MAX: u32>(
    deserializer: D,
) -> Result<f64, D::Error> {
    Factor::<MIN, MAX>::deserialize(deserializer).map(Factor::get)
}

/// Reads a zero as "not given".
pub(crate) fn zero_is_none<'de, D: Deserializer<'de>, const MIN: u32, const MAX: u32>(
    deserializer: D,
) -> Result<Option<Bounded<MIN, MAX>>, D::Error> {
    let number = i64::deserialize(deserializer)?;
    if number == 0 {
        return Ok(None);
    }
    let number = u32::try_from(number).ok().filter(|number| (MIN..=MAX).contains(number)).map(Bounded);
    number
        .map(Some)
        .ok_or_else(|| D::Error::custom(format_args!("expected 0 or a whole number from {MIN} to {MAX}")))
}
