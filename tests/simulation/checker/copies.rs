//! Copies of messages in delay queues and dead queues.

use std::{collections::BTreeMap, time::Duration};

use instant_connect_worker::{
    broker::publisher::Publication,
    contract::{header, ids::Role},
    outcome::Class,
};
use jiff::{SignedDuration, Timestamp};
use lapin::types::AMQPValue;
use uuid::Uuid;

use super::{Checker, id_of, message_id};
use crate::{
    broker::{GUESTS, GUESTS_SMS, GUESTS_WHATSAPP, HOSTS, RECEIPTS, SESSIONS},
    network::SimulatedLinks,
    per_stage::stage_of,
};

/// Longest processing time without a disturbance.
const LATENCY_MAX: Duration = Duration::from_secs(7);

pub(super) fn text_header(publication: &Publication, name: &str) -> Option<String> {
    let headers = publication.properties.headers().as_ref()?;
    match headers.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok().map(str::to_owned),
        AMQPValue::LongLongInt(number) => Some(number.to_string()),
        _ => None,
    }
}

impl Checker {
    /// Checks a message that the broker stored. `delay` is set for a delay queue.
    pub(crate) fn stored(
        &mut self,
        links: &BTreeMap<String, SimulatedLinks>,
        queue: &str,
        delay: Option<Duration>,
        publication: &Publication,
    ) -> Result<(), String> {
        match queue {
            GUESTS | GUESTS_SMS | GUESTS_WHATSAPP => self.link_stored(links, Role::Guest, publication),
            RECEIPTS => self.receipt_stored(publication),
            SESSIONS if !publication.exchange.is_empty() => self.start_stored(publication),
            HOSTS => self.link_stored(links, Role::Host, publication),
            _ => self.copy_stored(queue, delay, publication),
        }
    }

    fn copy_stored(
        &mut self,
        queue: &str,
        delay: Option<Duration>,
        publication: &Publication,
    ) -> Result<(), String> {
        self.count(if delay.is_some() { "delayed" } else { "dead" });
        let stage = stage_of(queue).unwrap_or_default();
        let (text_id, _) = message_id(publication);
        let id = id_of(stage, text_id, &publication.body);
        let result = self.copy_follows(queue, delay, publication, stage, id).and_then(|()| match delay {
            Some(delay) => self.delayed(id, delay, publication),
            None => self.dead(id, publication),
        });
        self.decided(&id);
        result
    }

    /// Checks that a copy in `queue` follows from the deliveries of its message.
    fn copy_follows(
        &mut self,
        queue: &str,
        delay: Option<Duration>,
        publication: &Publication,
        stage: &str,
        id: Uuid,
    ) -> Result<(), String> {
        let done = self.confirmed_all(&id);
        let seen = self.seen.get_mut(&id).ok_or_else(|| format!("unexpected: a copy in {queue}"))?;
        if seen.stage != stage {
            return Err(format!("unexpected: {} in {queue}", seen.name));
        }
        seen.copies += 1;
        if seen.copies > seen.acks + seen.open + seen.excuses {
            return Err(format!("unexpected: too many copies of {}", seen.name));
        }
        if done && seen.open == 1 {
            return Err(format!(
                "{} is copied to {queue} after all its messages were published and confirmed",
                seen.name
            ));
        }
        let attempts = text_header(publication, header::ATTEMPTS).and_then(|text| text.parse::<u32>().ok());
        let most = seen.attempts_max() + u32::from(delay.is_none());
        if attempts.is_some_and(|attempts| attempts > most) {
            return Err(format!(
                "{} has {attempts:?} counted attempts, but at most {} failures of its own",
                seen.name,
                seen.attempts_max()
            ));
        }
        Ok(())
    }

    /// Checks that a message is not delayed beyond its session's end.
    fn delayed(&mut self, id: Uuid, delay: Duration, publication: &Publication) -> Result<(), String> {
        let (now, undisturbed) = (self.now(), self.undisturbed(&id));
        let back = now + SignedDuration::try_from(delay).unwrap_or_default();
        let slack = SignedDuration::try_from(self.rules.first_delay + LATENCY_MAX).unwrap_or_default();
        let not_before = text_header(publication, header::NOT_BEFORE);
        let not_before = not_before.and_then(|at| at.parse::<Timestamp>().ok());
        // A copy that is already due was decided for an earlier delivery and waited for the broker.
        let prompt = undisturbed && not_before.is_none_or(|at| at > now);
        let late = |deadline: Timestamp| {
            not_before.is_some_and(|at| at >= deadline) || (prompt && back > deadline + slack)
        };
        let Some(seen) = self.seen.get_mut(&id) else { return Ok(()) };
        seen.not_before = not_before;
        if seen.deadline.is_some_and(late) {
            return Err(format!("late: {} is delayed beyond its session's end", seen.name));
        }
        Ok(())
    }

    /// Checks that a message may be dead-lettered for the reason in its headers.
    fn dead(&mut self, id: Uuid, publication: &Publication) -> Result<(), String> {
        let class = text_header(publication, header::DEAD_CLASS).unwrap_or_default();
        let reason = text_header(publication, header::DEAD_REASON).unwrap_or_default();
        let class: Class =
            class.parse().map_err(|_| format!("a dead letter of an unknown class: {class}"))?;
        let Some(seen) = self.seen.get_mut(&id) else { return Ok(()) };
        seen.dead.push(class);
        let name = seen.name.clone();
        if self.may_die(&id, class) {
            Ok(())
        } else {
            Err(format!("{name} must not be dead-lettered as {class}: {reason}"))
        }
    }
}
