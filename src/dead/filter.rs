//! Which letters are meant.

use std::time::Duration;

use jiff::Timestamp;

use super::DeadLetter;
use crate::{contract::private::loggable_id, outcome::Class};

/// A letter is meant if all that is given here is true of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// It is of one of these classes; any where none is given.
    pub classes: Vec<Class>,
    /// Its session, as the flow gave it or as it is shown.
    pub session: Option<String>,
    /// Its event, as the flow gave it or as it is shown, or the letter's own id.
    pub event: Option<String>,
    /// It died longer ago than this.
    pub older_than: Option<Duration>,
    /// It died since then.
    pub newer_than: Option<Duration>,
}

impl Filter {
    /// Whether `letter` is meant, at the time `now`. A letter that does not say when it died is neither old nor new.
    #[must_use]
    pub(crate) fn matches(&self, letter: &DeadLetter, now: Timestamp) -> bool {
        let class =
            self.classes.is_empty() || letter.class.is_some_and(|class| self.classes.contains(&class));
        let age = letter.age(now);
        class
            && self
                .session
                .as_deref()
                .is_none_or(|id| letter.session.as_deref().is_some_and(|known| is(id, known)))
            && self.event.as_deref().is_none_or(|id| is(id, &letter.event) || id == letter.id.to_string())
            && self.older_than.is_none_or(|limit| age.is_some_and(|age| age > limit))
            && self.newer_than.is_none_or(|limit| age.is_some_and(|age| age <= limit))
    }
}

fn is(asked: &str, known: &str) -> bool {
    asked == known || asked == loggable_id(known)
}
