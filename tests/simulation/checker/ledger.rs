//! The ledger: what the worker may know from it.

use std::time::Duration;

use instant_connect_worker::{
    ledger::entry::{Entry, EntryState},
    stages,
};
use uuid::Uuid;

use super::{Checker, message::SeenMessage};

/// Longest outage of the ledger after which the worker still retries a write.
const LEDGER_OUT_MAX: Duration = Duration::from_secs(120);
/// The name of the stages that send messages to guests, in their keys.
const SEND: &str = "send";

impl Checker {
    /// The messages whose effect has the ledger key `key`: the stage, and an event's id or a link's `message_id`.
    pub(super) fn by_ledger_key(&mut self, key: &str) -> impl Iterator<Item = &mut SeenMessage> {
        let (stage, id) = key.split_once(':').unwrap_or_default();
        let (stage, id, number) = (stage.to_owned(), id.to_owned(), Uuid::try_parse(id).ok());
        let events = &self.events;
        self.seen.iter_mut().filter_map(move |(key, seen)| {
            let name = if seen.guest.is_some() { SEND } else { seen.stage };
            let is = name == stage
                && if seen.is_event() { events[seen.event].id.as_str() == id } else { number == Some(*key) };
            is.then_some(seen)
        })
    }

    /// Records a ledger failure, which opens the breakers.
    pub(crate) fn ledger_stops(&mut self) {
        let now = self.now();
        self.apis.values_mut().for_each(|api| api.stops(now));
    }

    /// Records a failed ledger write. A running worker retries the write while it may hold the delivery.
    pub(crate) fn ledger_failed(&mut self, key: &str) {
        self.count("ledger failures");
        self.tries_in_doubt += u32::from(key.starts_with("tried:"));
        // Nothing waits for long for the record of a message to a guest.
        if self.rules.delivery_timeout > LEDGER_OUT_MAX && !key.starts_with(SEND) {
            return;
        }
        self.by_ledger_key(key).for_each(|seen| {
            seen.unknown_effect = true;
            seen.devices_known = false;
            seen.unrecorded += 1;
        });
    }

    /// Records the ledger entry for `key`, or its absence.
    pub(crate) fn ledger_has(&mut self, key: &str, entry: Option<&Entry>) {
        let recorded = entry.is_some_and(|entry| entry.state == EntryState::Recorded);
        // A note before the first call contains no links.
        let without_links =
            |entry: &Entry| str::from_utf8(&entry.bytes).is_ok_and(|note| note.contains(r#""hosts":[]"#));
        let noted = !recorded && entry.is_some_and(|entry| !without_links(entry));
        if key.starts_with(stages::HOST.name) {
            self.host_noted(key, entry.map(|entry| &entry.bytes[..]));
        }
        self.by_ledger_key(key).for_each(|seen| {
            seen.recorded |= recorded;
            seen.noted = noted;
        });
    }
}
