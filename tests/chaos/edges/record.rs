//! The record of requests, messages to guests and receipts.

use std::collections::{HashMap, HashSet};

use instant_connect_sandbox::{
    Endpoint, Fault, Handle, ReceiptResult, ReceiptState, RecordedReceipt, RecordedRole, RecordedSend,
};
use jiff::Timestamp;
use serde_json::Value;
use testkit::rig::BASE_URL;
use uuid::Uuid;

use crate::chaos::{
    event::{Kind, Start},
    history::{History, Inner},
};

/// A guest of an event, by their numbers.
pub(super) type Guest = (u32, u32);

/// The record over both edges.
#[derive(Default)]
pub(in crate::chaos) struct EdgeRecords {
    /// The id of each event, from the first answer.
    pub(super) event_ids: HashMap<u32, Uuid>,
    /// The events that an answer said were new.
    new: HashSet<u32>,
    /// Answers 202 with `replayed`.
    pub(super) replayed: u64,
    /// Answers 202 that said again that the event is new.
    pub(super) new_again: usize,
    /// Requests that were refused because their event is invalid.
    pub(in crate::chaos) refused: u32,
    /// Messages that Webex Connect accepted.
    pub(super) sends: u64,
    /// Messages that Webex Connect accepted with an answer that said nothing.
    pub(super) answers_cut: u64,
    pub(super) repeats: Vec<Repeat>,
    last: HashMap<Guest, Accepted>,
    /// The messages by their ids.
    messages: HashMap<Uuid, Guest>,
    /// Time of each message's first confirmed receipt.
    pub(super) received: HashMap<Guest, Timestamp>,
    /// The receipts that an ingress confirmed.
    confirmed: HashSet<Receipt>,
    published: HashSet<Receipt>,
    pub(super) receipts_dropped: u64,
    /// Dead letters of messages that may have been sent.
    pub(super) dead_maybe_sent: u64,
}

/// A message's receipt, by its state.
type Receipt = (Uuid, &'static str);

/// A message that Webex Connect accepted.
#[derive(Clone)]
pub(super) struct Accepted {
    pub(super) at: Timestamp,
    /// The id in the answer.
    pub(super) connect_id: String,
    /// The answer said nothing.
    pub(super) cut: bool,
}

/// A message that was accepted again.
pub(super) struct Repeat {
    pub(super) guest: Guest,
    pub(super) before: Accepted,
    pub(super) at: Timestamp,
}

impl History {
    /// Records an answer 202.
    pub(super) fn accepted(&self, start: Start, event_id: Uuid, replayed: bool) {
        self.confirmed(start);
        self.change(|inner| {
            let edges = &mut inner.edges;
            let known = *edges.event_ids.entry(start.0).or_insert(event_id);
            if replayed {
                edges.replayed += 1;
            } else {
                edges.new_again += usize::from(!edges.new.insert(start.0));
            }
            if known != event_id {
                inner.unexpected(format!("{} has the ids {known} and {event_id}", start.id()));
            }
            if start.kind() != Kind::Good {
                inner.unexpected(format!("{} was accepted: {:?}", start.id(), start.kind()));
            }
        });
    }

    /// Records an answer that refuses a request for good.
    pub(super) fn refused(&self, start: Start, kind: &str) {
        self.change(|inner| {
            let expected = match start.kind() {
                Kind::Good => "no refusal",
                Kind::Invalid => "invalid",
                Kind::Forbidden => "device-not-allowed",
            };
            if kind != expected {
                inner.unexpected(format!("{} was refused: {kind} instead of {expected}", start.id()));
            }
            inner.edges.refused += u32::from(inner.finish_refused(start));
        });
    }

    /// Records a message that Webex Connect accepted.
    pub(super) fn guest_message(&self, sent: &RecordedSend, sandbox: &Handle) {
        self.change(|inner| {
            inner.edges.sends += 1;
            if let Err(why) = guest_message(inner, sent, sandbox) {
                inner.unexpected(why);
            }
        });
    }

    /// Records an attempt of Webex Connect to send a receipt.
    pub(super) fn receipt_sent(&self, receipt: &RecordedReceipt) {
        self.change(|inner| {
            let edges = &mut inner.edges;
            edges.receipts_dropped += u64::from(receipt.result == ReceiptResult::Dropped);
            if receipt.result != ReceiptResult::Status(200) {
                return;
            }
            let id = receipt.correlation_id.as_deref().and_then(|id| id.parse().ok());
            let message = id.and_then(|id| Some((id, *edges.messages.get(&id)?)));
            let Some((id, guest)) = message else {
                return inner.unexpected(format!("a receipt for {:?}", receipt.correlation_id));
            };
            edges.received.entry(guest).or_insert(receipt.at);
            let state = match receipt.state {
                ReceiptState::Submitted => "submitted",
                ReceiptState::Delivered => "delivered",
                ReceiptState::Read => "read",
                ReceiptState::Clicked => "clicked",
                ReceiptState::Failed(_) => "failed",
            };
            edges.confirmed.insert((id, state));
        });
    }

    /// Records a receipt that an ingress published.
    pub(in crate::chaos) fn receipt_published(&self, body: &[u8]) {
        self.change(|inner| {
            if let Err(why) = receipt_published(&mut inner.edges, body) {
                inner.unexpected(why);
            }
        });
    }
}

impl EdgeRecords {
    /// Number of receipts that an ingress confirmed and did not publish.
    pub(in crate::chaos) fn receipts_missing(&self) -> usize {
        self.confirmed.difference(&self.published).count()
    }

    /// Counts a dead letter of a message that may have been sent.
    pub(in crate::chaos) fn count_dead(&mut self) {
        self.dead_maybe_sent += 1;
    }

    pub(super) fn receipts(&self) -> usize {
        self.confirmed.len()
    }
}

/// True if the worker cannot know from the answer that the message was sent.
const fn says_nothing(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::CutAfterEffect
            | Fault::CutBody
            | Fault::Garbage
            | Fault::Empty
            | Fault::WrongShape(_)
            | Fault::Huge { .. }
    )
}

fn guest_message(inner: &mut Inner, sent: &RecordedSend, sandbox: &Handle) -> Result<(), String> {
    let number = format!("+{}", sent.address.trim_start_matches('+'));
    let found =
        Start::of_number(&number).filter(|(start, guest)| inner.sent(*start) && *guest < start.guests());
    let (start, guest) = found.ok_or_else(|| format!("a message to {number}"))?;
    let short = sent.url.as_deref().and_then(|url| url.strip_prefix(BASE_URL)).unwrap_or_default();
    let link =
        sandbox.link(short).ok_or_else(|| format!("{}: the API never made link {short}", start.id()))?;
    let channel = if sent.endpoint == Endpoint::Sms { "sms" } else { "whatsapp" };
    let right = start.kind() == Kind::Good
        && channel == Start::channel(guest)
        && (link.role, &link.sub) == (RecordedRole::Guest, &start.session());
    if !right {
        return Err(format!("{}: {:?} link of {} by {channel}", start.id(), link.role, link.sub));
    }
    let id: Option<Uuid> = sent.correlation_id.as_deref().and_then(|id| id.parse().ok());
    let id = id.ok_or_else(|| format!("{}: correlation id {:?}", start.id(), sent.correlation_id))?;
    inner.see_guest(start, guest, &id.to_string(), short);
    let edges = &mut inner.edges;
    edges.messages.insert(id, (start.0, guest));
    let cut = sent.fault.as_ref().is_some_and(says_nothing);
    edges.answers_cut += u64::from(cut);
    let accepted = Accepted { at: sent.at, connect_id: sent.id.clone(), cut };
    if let Some(before) = edges.last.insert((start.0, guest), accepted) {
        edges.repeats.push(Repeat { guest: (start.0, guest), before, at: sent.at });
    }
    inner.finish(start);
    Ok(())
}

fn receipt_published(edges: &mut EdgeRecords, body: &[u8]) -> Result<(), String> {
    let body: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let state = body["state"].as_str().unwrap_or_default();
    let state = ["submitted", "delivered", "read", "failed"].into_iter().find(|known| *known == state);
    let id: Option<Uuid> = body["messageId"].as_str().and_then(|id| id.parse().ok());
    let message = id.and_then(|id| Some((id, edges.messages.get(&id)?)));
    let (Some(state), Some((id, (event, _)))) = (state, message) else {
        return Err(format!("a receipt {body}"));
    };
    // The answer to the request may have been lost so far.
    if let (Some(given), Some(known)) = (body["eventId"].as_str(), edges.event_ids.get(event))
        && given != known.to_string()
    {
        return Err(format!("a receipt with event id {given} in place of {known}"));
    }
    edges.published.insert((id, state));
    Ok(())
}
