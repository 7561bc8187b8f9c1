//! Selection of letters.

use std::time::Duration;

use jiff::Timestamp;

use super::DeadLetter;
use crate::{contract::private::loggable_id, outcome::Class};

/// Selects the letters that fulfil all conditions given here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Classes to select; empty selects all.
    pub classes: Vec<Class>,
    /// Session id, in full or as shown in logs.
    pub session: Option<String>,
    /// Event id, in full or as shown in logs, or the letter's own id.
    pub event: Option<String>,
    /// Minimum time since the death.
    pub older_than: Option<Duration>,
    /// Maximum time since the death.
    pub newer_than: Option<Duration>,
}

impl Filter {
    /// True if `letter` is selected at the time `now`. A letter without a death time matches neither `older_than` nor
    /// `newer_than`.
    #[must_use]
    pub(crate) fn matches(&self, letter: &DeadLetter, now: Timestamp) -> bool {
        let class =
            self.classes.is_empty() || letter.class.is_some_and(|class| self.classes.contains(&class));
        let age = letter.age(now);
        class
            && self
                .session
                .as_deref()
                .is_none_or(|id| letter.session.as_deref().is_some_and(|known| is_same_id(id, known)))
            && self
                .event
                .as_deref()
                .is_none_or(|id| is_same_id(id, &letter.event) || id == letter.id.to_string())
            && self.older_than.is_none_or(|limit| age.is_some_and(|age| age > limit))
            && self.newer_than.is_none_or(|limit| age.is_some_and(|age| age <= limit))
    }
}

fn is_same_id(given: &str, known: &str) -> bool {
    given == known || given == loggable_id(known)
}
