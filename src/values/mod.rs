//! Value types of settings, with their own rules. Each error states the expected value; the caller adds the setting, origin and value.

mod durations;
mod numbers;
mod optional;
mod texts;

pub(crate) use self::{
    durations::duration,
    numbers::{factor, whole, zero_is_none},
    optional::{FromText, address_or_off, empty_is_none, from_text_by_name, http_url},
};
pub use self::{
    durations::{Delays, Period, PeriodOrZero},
    numbers::{Bounded, Factor},
    texts::{BaseUrl, NonEmpty, Prefix, SubjectPrefix},
};
