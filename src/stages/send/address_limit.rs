//! Limit of the messages to one number (`send.per_address_per_hour`), so that a client of the ingress cannot make the worker send
//! expensive messages without end.
//!
//! Each message takes one slot of its number and hour in the ledger, and keeps it at every repeat: the hour is that of the link, not of
//! the attempt. Two workers never get the same slot, because a slot is a key that only one content can claim.

use jiff::{SignedDuration, Timestamp};

use super::{GuestJob, GuestSender, SendStage};
use crate::{
    contract::{ids, people::PhoneNumber, start_session::Digest},
    outcome::{Class, Death, Outcome},
};

/// Time for which a taken slot stays taken. It is longer than the hour, so no slot becomes free within it.
const TAKEN_FOR: SignedDuration = SignedDuration::from_hours(2);

/// Greatest age of a link whose own hour counts. Other producers may write any time into their messages.
const AGE_MAX: SignedDuration = SignedDuration::from_hours(24);

impl<C: GuestSender> SendStage<C> {
    /// Counts the message `job` with this `digest`, unless it was counted before.
    ///
    /// # Errors
    /// The outcome of a message that must not be sent, or not now.
    pub(super) async fn count(&self, job: &GuestJob, digest: Digest) -> Result<(), Outcome> {
        let Some(max) = self.rules.per_address_per_hour else { return Ok(()) };
        let now = self.deduplicator.clock().now();
        // A replay is an operator's decision to send the message now.
        let key = key(&job.link.to, hour(job.replayed_at.or(job.published_at), now));
        let until = now.saturating_add(TAKEN_FOR).unwrap_or(Timestamp::MAX);
        if self.deduplicator.take_slot(&key, max, digest, until).await? {
            return Ok(());
        }
        let reason = format!(
            "more than {max} messages to one number within an hour (send.per_address_per_hour); a replay in a later hour sends it"
        );
        Err(Outcome::Dead(Death::new(Class::Exhausted, reason)))
    }
}

/// Number of the hour to which a message of the time `at` belongs.
fn hour(at: Option<Timestamp>, now: Timestamp) -> i64 {
    let is_plausible = |at: &Timestamp| *at <= now && now.duration_since(*at) <= AGE_MAX;
    at.filter(is_plausible).unwrap_or(now).as_second().div_euclid(3600)
}

/// The slots of a number in an hour. The ledger has a hash instead of the number.
fn key(to: &PhoneNumber, hour: i64) -> String {
    format!("address/{}/{hour}", ids::hash(to.reveal().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_keeps_its_hour_unless_its_time_is_implausible() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (now, this) = (at("2026-11-21T10:00:05Z"), at("2026-11-21T10:00:00Z").as_second() / 3600);
        for (time, expected) in [
            (None, this),
            (Some("2026-11-21T09:59:59Z"), this - 1),
            (Some("2026-11-21T10:00:05Z"), this),
            (Some("2026-11-20T10:00:05Z"), this - 24),
            (Some("2026-11-20T10:00:04Z"), this),
            (Some("2026-11-21T11:00:00Z"), this),
        ] {
            assert_eq!(hour(time.map(at), now), expected, "{time:?}");
        }
    }

    #[test]
    fn key_has_no_number() {
        let number = |text: &str| PhoneNumber::try_from(text.to_owned()).unwrap();
        let (one, other) = (key(&number("+34600111222"), 7), key(&number("+34600111223"), 7));
        assert!(!one.contains("600111222") && one != other, "{one}");
        assert!(one.ends_with("/7") && one.len() < 100, "{one}");
    }
}
