//! Messages to guests: each is sent with its guest's link, to an allowed number and in time, and again only if it may be
//! lost. A receipt in the ledger shows that it was not.

mod tests;

use std::{collections::BTreeMap, time::Duration};

use instant_connect_worker::{
    broker::publisher::Publication,
    contract::{
        ids::Role,
        people::PhoneNumber,
        receipt::{ReceiptNote, SendNote, receipt_key, send_key},
        stage::StageDef,
    },
    ledger::entry::EntryState,
    stages::{self, OnUnknown},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use uuid::Uuid;

use super::{Checker, message::SeenMessage};
use crate::{
    network::{BASE_URL, CallResult, GuestMessage, SimulatedLinks},
    plan::SendersPlan,
    worker,
};

/// How often a message is sent at most if each time nobody knows whether it was sent.
pub(super) const SENDS_MAX: u32 = 3;
/// The wait for a receipt leaves this time for another send.
const REPEAT_TIME: Duration = Duration::from_secs(30);
/// The worker reads times in whole seconds.
const SECOND: SignedDuration = SignedDuration::from_secs(1);

/// The observations of a message to a guest.
#[derive(Debug)]
pub(super) struct GuestChecks {
    /// The end of the link. The message's deadline is earlier.
    pub(super) ends_at: Timestamp,
    /// The ledger's note about its sends.
    note: SendNote,
    /// The time from which on the ledger has a receipt.
    receipt_since: Option<Timestamp>,
    /// Number of receipts that the broker stored.
    receipts: u32,
}

impl Checker {
    /// The guest link `message` with the routing key `key` as its stage sees it; `None` if other programs send the links.
    pub(super) fn guest_link(&self, key: &str, message: SeenMessage) -> Option<SeenMessage> {
        let min_remaining = SignedDuration::try_from(self.rules.senders.as_ref()?.min_remaining).ok()?;
        let ends_at = message.deadline?;
        let stage = if key == "guest.sms" { &stages::SMS } else { &stages::WHATSAPP };
        let guest = GuestChecks { ends_at, note: SendNote::default(), receipt_since: None, receipts: 0 };
        Some(SeenMessage {
            stage: stage.name,
            deadline: Some(ends_at - min_remaining),
            guest: Some(guest),
            ..message
        })
    }

    fn guest_of(&mut self, id: &str) -> Option<(&mut SeenMessage, Uuid)> {
        let id = Uuid::try_parse(id).ok()?;
        let seen = self.seen.get_mut(&id).filter(|seen| seen.guest.is_some())?;
        Some((seen, id))
    }

    /// True if messages may be sent to `number`.
    fn allows(&self, number: &str) -> bool {
        let number = PhoneNumber::try_from(number.to_owned());
        let senders = self.rules.senders.as_ref();
        senders.is_none_or(|senders| number.is_ok_and(|number| worker::numbers(senders).allow(&number)))
    }

    /// True if the message is for a number, or an event for guests, without an allowed prefix.
    pub(super) fn is_foreign(&self, seen: &SeenMessage) -> bool {
        if seen.guest.is_some() {
            return !self.allows(&seen.key);
        }
        let session = &self.events[seen.event].session;
        let refused =
            |senders: &SendersPlan| senders.link_refuses && *session == format!("s{}", senders.foreign);
        seen.is_event() && self.rules.senders.as_ref().is_some_and(refused)
    }

    /// True if the message may have been sent so often that it is not sent again.
    pub(super) fn may_be_given_up(&self, seen: &SeenMessage) -> bool {
        let most = self.sends_max();
        seen.host_sends >= SENDS_MAX && (seen.room || seen.list_refused)
            || seen.guest.as_ref().is_some_and(|guest| guest.note.sends >= most)
    }

    fn sends_max(&self) -> u32 {
        let dies = self.rules.senders.as_ref().is_some_and(|senders| senders.on_unknown == OnUnknown::Dead);
        if dies { 1 } else { SENDS_MAX }
    }

    /// Checks the call that sends `message`, before Webex Connect has it.
    pub(super) fn guest_called(&mut self, message: &GuestMessage) -> Result<(), String> {
        let allowed = self.allows(&message.to);
        let (seen, _) = self.guest_of(&message.id).ok_or("unexpected: a message that no link asks for")?;
        let Some(guest) = &seen.guest else { return Ok(()) };
        let name = &seen.name;
        if !allowed {
            return Err(format!("unexpected: {name} goes to a number without an allowed prefix"));
        }
        if guest.note.sends <= seen.effects {
            return Err(format!("{name} is sent without a note in the ledger"));
        }
        // With another delivery in progress, the receipt may have come after that one looked for it.
        let delivered_at = seen.delivered_at.last().filter(|_| seen.open == 1 && !seen.may_publish_late);
        if delivered_at.is_some_and(|at| guest.receipt_since.is_some_and(|since| since < *at)) {
            return Err(format!("repeated: {name} is sent although the ledger has its receipt"));
        }
        Ok(())
    }

    /// Records a message to a guest and checks that it is right and not repeated.
    pub(crate) fn guest_message_sent(
        &mut self,
        links: &BTreeMap<String, SimulatedLinks>,
        message: &GuestMessage,
    ) -> Result<(), String> {
        self.count("messages to guests");
        let most = self.sends_max();
        let (seen, id) = self.guest_of(&message.id).ok_or("unexpected: a message that no link asks for")?;
        seen.effects += 1;
        let known = !std::mem::replace(&mut seen.unknown_effect, true);
        let (name, to, effects, recorded) =
            (seen.name.clone(), seen.key.clone(), seen.effects, seen.recorded);
        if to != message.to || !seen.name.contains(message.channel) {
            return Err(format!("swapped: {name} goes to the wrong recipient"));
        }
        let url = self.links.url(&id).unwrap_or_default();
        let short = url.strip_prefix(BASE_URL).unwrap_or_default();
        let is_right = match message.channel {
            "sms" => message.content.contains(url) && message.content.matches(BASE_URL).count() == 1,
            _ => message.content == short,
        };
        if !is_right || links.get(short).is_none_or(|link| link.role != Role::Guest) {
            return Err(format!("swapped: {name} has a wrong link"));
        }
        if effects > 1 {
            self.count("messages to guests sent again");
        }
        if effects > most || (effects > 1 && (recorded || known)) {
            return Err(format!("repeated: {name} is sent for the {effects}. time"));
        }
        Ok(())
    }

    /// Records the ledger entry for `key`, if it is about a message to a guest.
    pub(crate) fn guest_noted(
        &mut self,
        key: &str,
        entry: Option<(EntryState, &[u8])>,
    ) -> Result<(), String> {
        let (now, wait) = (self.now(), self.rules.senders.as_ref().and_then(|senders| senders.receipt_wait));
        let id = key.rsplit([':', '/']).next().unwrap_or_default();
        let Some((seen, id)) = self.guest_of(id) else { return Ok(()) };
        let (Some(guest), Some(deadline)) = (&mut seen.guest, seen.deadline) else { return Ok(()) };
        if key == receipt_key(&id) {
            let has_receipt = entry.is_some_and(|(_, bytes)| ReceiptNote::read(bytes).is_some());
            guest.receipt_since = guest.receipt_since.or(Some(now)).filter(|_| has_receipt);
        }
        let is_recorded = entry.is_some_and(|(state, _)| state == EntryState::Recorded);
        if key != send_key(&id) || is_recorded {
            return Ok(());
        }
        let note = entry.and_then(|(_, bytes)| SendNote::read(bytes)).unwrap_or_default();
        let before = std::mem::replace(&mut guest.note, note);
        let (Some(wait), Some(sent_at), Some(again_at)) = (wait, before.sent_at, guest.note.sent_at) else {
            return Ok(());
        };
        let is_repeat = before.sends > 0 && guest.note.sends > before.sends;
        if is_repeat && again_at < sent_at + wait && sent_at + wait + REPEAT_TIME < deadline - SECOND {
            return Err(format!("early: {} is sent again while its receipt may come", seen.name));
        }
        Ok(())
    }

    /// Records the result of a request that shows if Webex Connect accepts the key, on behalf of each message that waits for it.
    pub(super) fn key_tried(&mut self, stage: &StageDef, learnt: CallResult) {
        let now = self.now();
        self.count(learnt.counted());
        let waits = |seen: &&mut SeenMessage| {
            seen.stage == stage.name
                && (seen.open > 0 || seen.may_publish_late)
                && seen.guest.as_ref().is_some_and(|guest| guest.note.sends > 0)
        };
        let api = &mut self.apis[stage.name];
        let mut longest = None;
        match learnt {
            CallResult::Wait(until) => {
                let this_call_only = api.learn(now, "the key", false, learnt);
                api.limited(now, until, this_call_only);
                longest = until.filter(|_| !this_call_only);
            }
            CallResult::Token => _ = api.learn(now, "the key", false, learnt),
            _ => {}
        }
        for seen in self.seen.values_mut().filter(waits) {
            match learnt {
                CallResult::Failed | CallResult::Later => {
                    api.learn(now, &seen.key, false, learnt);
                    seen.failures += 1;
                    seen.record_failure(false);
                }
                CallResult::Token => seen.record_failure(true),
                CallResult::Wait(until) => {
                    (seen.failed, seen.processed_since) = (true, false);
                    seen.no_call_until = until;
                }
                _ => {}
            }
        }
        if let Some(until) = longest {
            self.record_wait(until);
        }
    }

    /// Records a receipt that the broker stored, and checks that it shows nothing private.
    pub(super) fn receipt_stored(&mut self, publication: &Publication) -> Result<(), String> {
        self.count("receipts");
        let body = String::from_utf8_lossy(&publication.body).into_owned();
        let receipt: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
        let id = receipt["messageId"].as_str().unwrap_or_default();
        let (seen, _) = self.guest_of(id).ok_or("unexpected: a receipt of no message")?;
        if body.contains(seen.key.trim_start_matches('+')) || body.contains(BASE_URL) {
            return Err(format!("a receipt of {} has a number or a link", seen.name));
        }
        if let Some(guest) = &mut seen.guest {
            guest.receipts += 1;
        }
        Ok(())
    }

    /// Checks that a receipt that was answered with 200 is in the ledger and in its queue.
    pub(crate) fn receipt_accepted(&mut self, id: &str) -> Result<(), String> {
        self.count("accepted receipts");
        let (seen, _) = self.guest_of(id).ok_or("unexpected: a receipt of no message")?;
        let kept =
            seen.guest.as_ref().is_some_and(|guest| guest.receipts > 0 && guest.receipt_since.is_some());
        if kept { Ok(()) } else { Err(format!("lost: a receipt of {} is accepted and not kept", seen.name)) }
    }
}
