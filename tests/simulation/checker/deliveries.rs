//! Deliveries of messages to the worker, and how they end.

use std::time::Duration;

use jiff::SignedDuration;
use lapin::types::ShortString;
use uuid::Uuid;

use super::{Checker, id_of, message::SeenMessage, too_often};
use crate::{
    broker::{SESSIONS, Stored},
    per_stage::stage_of,
};

/// Limit per minute for each copy of a message; a worker that exceeds it loops.
const DELIVERIES_PER_MINUTE_MAX: usize = 90;
/// Longest wait of an event in its queue while only other events fail.
const FAIR_WAIT_MAX: Duration = Duration::from_secs(8);

/// A delivery that is not settled.
pub(super) struct OpenDelivery {
    of: Uuid,
    copies_before: u32,
    disturbances_before: u64,
}

impl Checker {
    /// Checks a new subscription with `prefetch`.
    pub(crate) fn subscribed(&mut self, queue: &str, prefetch: u16) -> Result<(), String> {
        let Some(stage) = stage_of(queue) else { return Ok(()) };
        // Work that was in progress when the rate limit arrived is done by then.
        let limited = self.apis[stage].is_known_to_be_limited(self.now());
        if prefetch > 1 && limited {
            return Err(format!("{queue}: subscribed with a prefetch above 1 while its API is rate limited"));
        }
        Ok(())
    }

    /// Checks how long a delivered message waited in its queue.
    pub(crate) fn waited(&self, queue: &str, body: &[u8], wait: Duration) -> Result<(), String> {
        let name = self.name(body);
        if queue == SESSIONS && wait > FAIR_WAIT_MAX && self.fair.contains(name) {
            return Err(format!("unfair: {name} waited {wait:?} in its queue while only other events fail"));
        }
        Ok(())
    }

    fn of_stored(&mut self, queue: &str, message: &Stored) -> (Uuid, Option<&mut SeenMessage>) {
        let message_id = message.properties.message_id().as_ref().map(ShortString::as_str);
        let id = id_of(stage_of(queue).unwrap_or_default(), message_id, &message.body);
        (id, self.seen.get_mut(&id))
    }

    pub(crate) fn delivered(&mut self, tag: u64, queue: &str, message: &Stored) -> Result<(), String> {
        let now = self.now();
        self.count("deliveries");
        let (of, seen) = self.of_stored(queue, message);
        let seen =
            seen.ok_or_else(|| format!("unexpected: {queue} delivered a message that was never sent"))?;
        seen.open += 1;
        seen.confirmed.clear();
        seen.copy_confirmed = false;
        // Each worker that dies between a confirm and its ack leaves one more copy, and each copy is delivered.
        let alike = (seen.inputs + seen.copies).saturating_sub(seen.acks).max(1) as usize;
        seen.alike.retain(|(at, _)| now.duration_since(*at) < SignedDuration::from_secs(60));
        seen.alike.push((now, alike));
        let most = seen.alike.iter().map(|(_, alike)| *alike).max().unwrap_or(1);
        let spins = too_often(&mut seen.delivered_at, now, DELIVERIES_PER_MINUTE_MAX * most);
        let (copies_before, name) = (seen.copies, seen.name.clone());
        self.open.insert(tag, OpenDelivery { of, copies_before, disturbances_before: self.disturbances });
        if spins { Err(format!("{name} is delivered too often")) } else { Ok(()) }
    }

    /// Records that the broker took a delivery back because its connection is gone. If the worker `lives`, its work
    /// may continue beside the next delivery.
    pub(crate) fn taken_back(&mut self, tag: u64, lives: bool) {
        self.count("redeliveries");
        if let Some(seen) = self.open.remove(&tag).and_then(|open| self.seen.get_mut(&open.of)) {
            seen.open -= 1;
            seen.excuses += 1;
            seen.excused_alive += u32::from(lives);
            seen.may_publish_late |= lives;
            seen.deaths += u32::from(!lives);
            // Many deliveries to workers that die are no loop.
            seen.delivered_at.pop();
        }
    }

    /// Records that the worker requeued a delivery.
    pub(crate) fn requeued(&mut self, tag: u64) -> Result<(), String> {
        self.count("requeues");
        let Some(open) = self.open.remove(&tag) else { return Ok(()) };
        let done = self.confirmed_all(&open.of);
        let Some(seen) = self.seen.get_mut(&open.of) else { return Ok(()) };
        let alone = seen.open == 1;
        seen.open -= 1;
        seen.excuses += 1;
        if alone && (done || seen.copy_confirmed) {
            return Err(format!(
                "{} was requeued after all its messages were published and confirmed",
                seen.name
            ));
        }
        Ok(())
    }

    /// Returns true if the broker connection was not disturbed since `of` was delivered.
    pub(super) fn undisturbed(&self, of: &Uuid) -> bool {
        let before = self.open.values().filter(|open| open.of == *of).map(|open| open.disturbances_before);
        before.min().is_some_and(|before| before == self.disturbances)
    }

    /// Returns true if the worker knows that all links of an event are published.
    pub(super) fn confirmed_all(&self, of: &Uuid) -> bool {
        let Some(seen) = self.seen.get(of) else { return false };
        let links = &self.events[seen.event].links;
        seen.is_event()
            && !links.is_empty()
            && links.iter().all(|link| seen.confirmed.contains(&link.message_id))
    }

    /// Checks that an acknowledged message has a safe result.
    pub(crate) fn acknowledged(&mut self, tag: u64, queue: &str, message: &Stored) -> Result<(), String> {
        self.count("acks");
        let Some(OpenDelivery { of, copies_before, .. }) = self.open.remove(&tag) else { return Ok(()) };
        let done = self.is_done(&of);
        let (_, Some(seen)) = self.of_stored(queue, message) else { return Ok(()) };
        seen.open -= 1;
        seen.acks += 1;
        if seen.copies > seen.spent && seen.copies > copies_before {
            seen.spent += 1;
            return Ok(());
        }
        if done { Ok(()) } else { Err(format!("lost: {} was acknowledged without a result", seen.name)) }
    }

    /// Checks a connection that the worker closes with the deliveries `left` unsettled.
    pub(crate) fn closed(&self, left: &[u64]) -> Result<(), String> {
        if self.draining && !left.is_empty() {
            return Err(format!("the worker stops with {} deliveries unsettled", left.len()));
        }
        Ok(())
    }
}
