//! The ledger's entries about a message to a guest, and about its receipts. Stages `sms` and `whatsapp` write the first and read the
//! second; the ingress does the opposite.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::MessageState;
use crate::contract::{link::GuestLink, private::Private, start_session::Attributes};

/// Greatest difference between the clocks of the worker that sends a message and of the one that gets its receipt.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// Key of the entry about the message `id`.
#[must_use]
pub fn send_key(id: &Uuid) -> String {
    format!("send:{id}")
}

/// Key of the entry about the receipts of the message `id`.
#[must_use]
pub fn receipt_key(id: &Uuid) -> String {
    format!("receipt/{id}")
}

/// Note before a message is sent; also the result once it is sent, if receipts are on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SendNote {
    /// Number of times that the message may have been sent.
    pub sends: u32,
    /// Time of the first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_sent_at: Option<Timestamp>,
    /// Time of the last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Timestamp>,
    /// The replay of the dead letter to which the number belongs, because an operator decided to send it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed_at: Option<Timestamp>,
    /// The link of the message, for its receipts. Missing if receipts are off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<SentLink>,
    /// The whole link, if a receipt may say that it must be sent by SMS instead (`send.sms_fallback`).
    #[serde(default, deserialize_with = "readable", skip_serializing_if = "Option::is_none")]
    pub link: Option<GuestLink>,
}

/// The link, if this version can read it: the rest of the note counts in any case.
fn readable<'de, D: Deserializer<'de>>(from: D) -> Result<Option<GuestLink>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(from)?).ok())
}

/// Fields of a guest link that receipts repeat: no number, name or link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SentLink {
    /// The id of the start event.
    pub event_id: String,
    /// As in the start event.
    pub session_id: Private<String>,
    /// As in the start event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<Private<String>>,
    /// As in the start event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Attributes>,
    /// When the guest link was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_at: Option<Timestamp>,
}

/// Note about the receipts of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptNote {
    /// The state with the highest rank.
    pub state: MessageState,
    /// Time of the last receipt, by the clock of the worker that got it.
    pub at: Timestamp,
}

impl ReceiptNote {
    /// The note after a receipt with `state` at `at`, if the one before was `known`.
    #[must_use]
    pub fn after(known: Option<Self>, state: MessageState, at: Timestamp) -> Self {
        let best = known.map(|known| known.state).filter(|known| known.rank() >= state.rank());
        Self { state: best.unwrap_or(state), at }
    }

    /// Reads a note.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

impl SendNote {
    /// Reads a note or a result. Results of messages that were sent while receipts were off contain nothing.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// True if `receipt` is about this message. A receipt from before the last replay is about an earlier one, which an operator decided to
    /// send again; the operator's clock may be ahead, so the first send counts if it was earlier. A receipt from before the first send is
    /// about an earlier session: a start event that is repeated after the ledger forgot it makes links with the same ids.
    #[must_use]
    pub fn may_have(&self, receipt: &ReceiptNote) -> bool {
        let earliest = self.first_sent_at.and_then(|at| at.checked_sub(CLOCK_SKEW).ok());
        let replayed_at = self.replayed_at.map(|at| self.first_sent_at.map_or(at, |first| at.min(first)));
        replayed_at.max(earliest).is_none_or(|earliest| receipt.at >= earliest)
    }

    /// The note before one more send at `at`.
    #[must_use]
    pub fn again(&self, at: Timestamp) -> Self {
        let first_sent_at = if self.sends == 0 { Some(at) } else { self.first_sent_at };
        Self { sends: self.sends.saturating_add(1), first_sent_at, sent_at: Some(at), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn note_keeps_the_best_state_whatever_the_order_of_the_receipts_is() {
        use MessageState::{Delivered, Failed, Read, Submitted};
        let at = Timestamp::UNIX_EPOCH;
        for (order, best) in [
            (&[Submitted, Delivered, Read][..], Read),
            (&[Read, Delivered, Submitted], Read),
            (&[Failed, Delivered], Delivered),
            (&[Delivered, Failed], Delivered),
            (&[Failed, Submitted], Failed),
        ] {
            let note = order.iter().fold(None, |known, state| Some(ReceiptNote::after(known, *state, at)));
            assert_eq!(note.unwrap().state, best, "{order:?}");
        }
    }

    #[test]
    fn receipt_of_a_replay_counts_although_the_operators_clock_is_ahead() {
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1);
        let at = |seconds| now + SignedDuration::from_secs(seconds);
        let receipt = |seconds| ReceiptNote { state: MessageState::Submitted, at: at(seconds) };
        for (replayed, sent, received, counts) in
            [(0, 2, 5, true), (0, 2, -1, false), (180, 2, 5, true), (180, 2, 1, false), (0, 3600, -1, false)]
        {
            let note = SendNote { replayed_at: Some(at(replayed)), ..SendNote::default() }.again(at(sent));
            assert_eq!(note.may_have(&receipt(received)), counts, "{replayed} {sent} {received}");
        }
    }

    #[test]
    fn notes_of_earlier_versions_are_read() {
        assert_eq!(SendNote::read(br#"{"sends":2}"#).unwrap().sends, 2);
        assert_eq!(SendNote::read(b"sent"), None);
        let unreadable = SendNote::read(br#"{"sends":2,"link":{"channel":"pigeon"}}"#).unwrap();
        assert_eq!((unreadable.sends, unreadable.link), (2, None));
        let note = SendNote::default().again(Timestamp::UNIX_EPOCH);
        assert_eq!(
            serde_json::to_string(&note).unwrap(),
            r#"{"sends":1,"firstSentAt":"1970-01-01T00:00:00Z","sentAt":"1970-01-01T00:00:00Z"}"#
        );
    }
}
