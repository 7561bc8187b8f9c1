//! The ledger's note about a message that may have been sent.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    contract::decode,
    outcome::{Class, Death},
    stages::SENDS_MAX,
};

/// Ledger record from before a message is sent until the result is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HostNote {
    /// Number of times that the message may have been sent.
    sends: u32,
    /// The replay of the dead letter to which the number belongs, because an operator decided to send it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replayed_at: Option<Timestamp>,
}

impl HostNote {
    /// Meaning of `note` for a message with the last replay `replayed_at`. Only a later replay begins a new count. A note of an earlier
    /// version has no count, and stands for one send.
    pub(super) fn of(note: Option<&[u8]>, replayed_at: Option<Timestamp>) -> Self {
        let read = |note| decode::from_json::<Self>(note).unwrap_or(Self { sends: 1, replayed_at: None });
        let noted = note.map(read).filter(|noted| noted.replayed_at >= replayed_at);
        noted.unwrap_or(Self { sends: 0, replayed_at })
    }

    /// True if the message may have been sent.
    pub(super) const fn may_be_sent(self) -> bool {
        self.sends > 0
    }

    /// The note after Webex has shown that the message was not sent yet. One send may still be late.
    pub(super) fn not_seen(self) -> Self {
        Self { sends: self.sends.min(1), ..self }
    }

    /// The note before the message is sent once more.
    pub(super) const fn again(self) -> Self {
        Self { sends: self.sends.saturating_add(1), ..self }
    }

    /// The value in the ledger.
    pub(super) fn bytes(self) -> Vec<u8> {
        // Serialization cannot fail, because the note is a number and a time.
        serde_json::to_vec(&self).unwrap_or_default()
    }

    /// The death of a message that may have been sent too often to send it once more.
    pub(super) fn too_often(self) -> Option<Death> {
        let reason = || {
            format!(
                "the message may have been sent {} times, and Webex does not say whether it was; a replay sends it again",
                self.sends
            )
        };
        (self.sends >= SENDS_MAX).then(|| Death::new(Class::Exhausted, reason()))
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn third_unknown_send_is_the_last_one() {
        let mut noted = HostNote::of(None, None);
        for sends in 0..3 {
            assert_eq!((noted.sends, noted.too_often().is_some()), (sends, false));
            noted = HostNote::of(Some(&noted.again().bytes()), None);
        }
        assert!(noted.too_often().unwrap().reason.contains("3 times"));
        let noted = HostNote::of(Some(&noted.not_seen().bytes()), None);
        assert!(noted.may_be_sent() && noted.too_often().is_none(), "it may only be late");
    }

    #[test]
    fn only_a_later_replay_begins_a_new_count() {
        let first = Timestamp::UNIX_EPOCH;
        let replays = [None, Some(first), Some(first + SignedDuration::from_secs(1))];
        for (at, replayed_at) in replays.into_iter().enumerate() {
            let bytes = HostNote { sends: 2, replayed_at }.bytes();
            for (later, copy) in replays.into_iter().enumerate() {
                let noted = HostNote::of(Some(&bytes), copy);
                let expected = if later > at { (0, copy) } else { (2, replayed_at) };
                assert_eq!((noted.sends, noted.replayed_at), expected, "{replayed_at:?} {copy:?}");
            }
        }
    }

    #[test]
    fn note_without_a_count_stands_for_one_send() {
        for note in [&b"sending"[..], b"", b"{}"] {
            assert_eq!(HostNote::of(Some(note), None).sends, 1);
        }
    }
}
