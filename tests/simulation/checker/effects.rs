//! Effects at the APIs: new links, called devices, and messages to experts.

use instant_connect_worker::{instant_connect::links_call::LINKS_MAX, stages};
use serde_json::Value;
use uuid::Uuid;

use super::{Checker, guests::SENDS_MAX};

impl Checker {
    /// Records new links of a session and checks that neither links nor device calls are repeated.
    pub(crate) fn links_made(&mut self, session: &str, devices: &[String], until: i64) -> Result<(), String> {
        self.count("links made");
        let now = self.now();
        let seen = self.seen.values_mut().find(|seen| seen.is_event() && seen.key == session);
        let Some(seen) = seen else { return Ok(()) };
        seen.effects += 1;
        seen.unknown_effect = true;
        let all_noted = seen.noted && self.events[seen.event].links.len() <= LINKS_MAX;
        if seen.recorded || all_noted {
            return Err(format!("repeated: {session} gets links again although the ledger has them"));
        }
        if devices.is_empty() {
            return Ok(());
        }
        // Devices of links that have ended are called again, with new links.
        let last = seen.devices_until.replace(until).filter(|last| *last > now.as_second());
        if last.is_some() && (seen.devices_known || seen.noted) {
            return Err(format!("repeated: the devices of {session} are called again"));
        }
        Ok(())
    }

    /// Returns true if the devices of the event with this `number` were called.
    pub(super) fn called_devices(&self, number: usize) -> bool {
        self.seen.values().any(|seen| seen.is_event() && seen.event == number && seen.devices_until.is_some())
    }

    /// Records a message to an expert and checks that it is right and not repeated.
    pub(crate) fn message_sent(&mut self, to: &str, text: &str) -> Result<(), String> {
        self.count("messages to experts");
        let ids: Vec<Uuid> = (self.seen.iter())
            .filter(|(_, seen)| seen.stage == stages::HOST.name && seen.key == to)
            .map(|(id, _)| *id)
            .collect();
        let [id] = ids[..] else { return Err(format!("unexpected: a message to {to}")) };
        let url = self.links.url(&id).unwrap_or_default().to_owned();
        let Some(seen) = self.seen.get_mut(&id) else { return Ok(()) };
        seen.effects += 1;
        let known = !std::mem::replace(&mut seen.unknown_effect, true);
        if url.is_empty() || !text.contains(&url) {
            return Err(format!("{to} gets a message with a wrong link"));
        }
        if seen.effects > 1 && (seen.recorded || known || !(seen.room || seen.list_refused)) {
            return Err(format!("repeated: {to} gets a second message"));
        }
        if seen.effects > SENDS_MAX {
            return Err(format!("repeated: {to} gets more than {SENDS_MAX} messages"));
        }
        Ok(())
    }

    /// True if the expert at `to` is a space.
    pub(crate) fn is_room(&self, to: &str) -> bool {
        self.seen.values().any(|seen| seen.room && seen.key == to)
    }

    /// Records the `note` of a host link.
    pub(super) fn host_noted(&mut self, key: &str, note: Option<&[u8]>) {
        let sends = note.and_then(|note| serde_json::from_slice::<Value>(note).ok());
        let sends = sends.and_then(|note| u32::try_from(note["sends"].as_u64()?).ok());
        self.by_ledger_key(key).for_each(|seen| seen.host_sends = sends.unwrap_or(0));
    }
}
