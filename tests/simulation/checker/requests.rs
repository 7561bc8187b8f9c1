//! Start requests to the ingress: each key leads to one event, which is in its queue before the answer says so.

use instant_connect_worker::{broker::publisher::Publication, ledger::entry::EntryState};
use serde_json::Value;

use super::{Checker, message_id};
use crate::events::{self, Event, ExpectedResult};

impl Checker {
    /// Records a start event that the ingress published, and checks that no earlier request with its key was accepted.
    pub(super) fn start_stored(&mut self, publication: &Publication) -> Result<(), String> {
        self.sent(&publication.body);
        let key = events::fingerprint(&publication.body);
        let seen = self.seen.get(&key).ok_or("unexpected: a start event that no client sent")?;
        let event = &self.events[seen.event];
        let (text_id, _) = message_id(publication);
        if text_id != Some(event.id.as_str()) {
            return Err(format!("repeated: {} is published with another id than before", seen.name));
        }
        if seen.request_recorded {
            return Err(format!("repeated: {} is published although its request was accepted", seen.name));
        }
        Ok(())
    }

    /// Records the ledger entry for `key`, if it is about a start request.
    pub(crate) fn request_noted(&mut self, key: &str, state: Option<EntryState>) {
        let Some(id) = key.strip_prefix("ingress/") else { return };
        let is_recorded = state == Some(EntryState::Recorded);
        let events = &self.events;
        let alike =
            self.seen.values_mut().filter(|seen| seen.is_event() && events[seen.event].id.as_str() == id);
        alike.for_each(|seen| seen.request_recorded = is_recorded);
    }

    /// Checks that an accepted event is in its queue, with the id that follows from its key.
    pub(crate) fn request_accepted(&mut self, event: &Event, answer: &[u8]) -> Result<(), String> {
        self.count("accepted requests");
        let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
        if answer["replayed"] == true {
            self.count("replayed requests");
        }
        let inputs = self.seen.get(&events::fingerprint(&event.body)).map_or(0, |seen| seen.inputs);
        if inputs == 0 {
            return Err(format!("lost: {} is accepted and in no queue", event.session));
        }
        if answer["eventId"] != event.id.as_str() {
            return Err(format!("repeated: {} is accepted with another id", event.session));
        }
        Ok(())
    }

    /// Checks that a refused event is invalid, or late.
    pub(crate) fn request_refused(&mut self, event: &Event) -> Result<(), String> {
        self.count("invalid requests");
        let now = self.now();
        let seen = self.seen.get(&events::fingerprint(&event.body));
        let is_foreign = seen.is_some_and(|seen| self.is_foreign(seen));
        let is_late = event.expires_at.is_some_and(|at| now >= at);
        if event.expected != ExpectedResult::Links || is_foreign || is_late {
            return Ok(());
        }
        Err(format!("{} is refused although it is valid", event.session))
    }
}
