//! The classes of dead letters, and the histories that allow them.

use std::time::Duration;

use instant_connect_worker::outcome::Class;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::{Checker, message::SeenMessage};
use crate::events::{Event, ExpectedResult};

impl Checker {
    /// Returns true if a message may be dead-lettered as `class`, given its history.
    pub(super) fn may_die(&self, id: &Uuid, class: Class) -> bool {
        let Some(seen) = self.seen.get(id) else { return false };
        let (event, now) = (&self.events[seen.event], self.now());
        match class {
            Class::Invalid => {
                let is_foreign = self.is_foreign(seen);
                is_foreign
                    || seen.is_event()
                        && (event.expected == ExpectedResult::Invalid
                            || self.shares_its_id(event)
                            || seen.deadline.is_some_and(|deadline| now >= deadline))
            }
            Class::DeviceNotAllowed => seen.is_event() && event.expected == ExpectedResult::DeviceNotAllowed,
            Class::Rejected => seen.refused,
            Class::Expired => self.may_expire(seen, event),
            // With so few attempts, their delays stay below `retry.total`.
            Class::Exhausted => seen.attempts_max() >= self.rules.attempts || self.may_be_given_up(seen),
            Class::Unroutable => seen.is_event() && seen.unroutable,
            Class::Poison => self.may_be_poison(seen, event),
            Class::Internal => false,
        }
    }

    fn shares_its_id(&self, event: &Event) -> bool {
        self.events.iter().filter(|other| other.id == event.id).count() > 1
    }

    /// Returns true if the next attempt would come after the end of the session.
    fn may_expire(&self, seen: &SeenMessage, event: &Event) -> bool {
        let backoff = Duration::from_secs_f64(1.2 * 3f64.powi(seen.failures.min(8).cast_signed()).min(600.0));
        let wait = backoff.max(self.longest_wait) + Duration::from_secs(2);
        let next = self.now() + SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
        let first = event.sent.iter().min().copied().unwrap_or_default();
        let first = self.rules.begin + SignedDuration::try_from(first).unwrap_or_default();
        let since = |begin: Timestamp| Duration::try_from(next.duration_since(begin)).unwrap_or_default();
        match seen.deadline {
            _ if event.expected == ExpectedResult::Invalid => seen.is_event(),
            Some(deadline) => next >= deadline,
            None => since(first) >= self.rules.lifetime,
        }
    }

    /// Returns true if enough workers crashed over the message. Crashes during the first three deliveries look like broken
    /// connections.
    fn may_be_poison(&self, seen: &SeenMessage, event: &Event) -> bool {
        // The worker takes events of one id for one.
        let alike = |other: &&SeenMessage| {
            let same_id = seen.is_event() && self.events[other.event].id == event.id;
            other.stage == seen.stage && (same_id || other.key == seen.key)
        };
        let deaths: u32 = self.seen.values().filter(alike).map(|seen| seen.deaths).sum();
        deaths + self.tries_in_doubt >= self.rules.deliveries_max.saturating_sub(3).max(2)
    }
}
