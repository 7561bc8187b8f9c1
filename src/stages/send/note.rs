//! What the ledger knows of a message that may have been sent.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Ledger note before a message is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SendNote {
    /// Number of times that the message may have been sent.
    pub(super) sends: u32,
    /// The replay of the dead letter to which the number belongs, because an operator decided to send it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replayed_at: Option<Timestamp>,
}

impl SendNote {
    /// What `note` says of a message with the last replay `replayed_at`. Only a later replay begins a new count: copies of one
    /// message may have been replayed at different times.
    pub(super) fn noted(note: Option<&[u8]>, replayed_at: Option<Timestamp>) -> Self {
        let noted = note.and_then(|note| serde_json::from_slice::<Self>(note).ok());
        let noted = noted.filter(|noted| noted.replayed_at >= replayed_at);
        noted.unwrap_or(Self { sends: 0, replayed_at })
    }

    /// The note before the message is sent once more.
    pub(super) fn again(self) -> Self {
        Self { sends: self.sends.saturating_add(1), ..self }
    }

    /// The note on the wire of the ledger.
    pub(super) fn to_bytes(self) -> Option<Vec<u8>> {
        serde_json::to_vec(&self).ok()
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn only_a_later_replay_begins_a_new_count() {
        let first = Timestamp::UNIX_EPOCH;
        let second = first + SignedDuration::from_secs(1);
        let replays = [None, Some(first), Some(second)];
        for (at, replayed) in replays.into_iter().enumerate() {
            let note = SendNote { sends: 2, replayed_at: replayed }.to_bytes().unwrap();
            for (later, copy) in replays.into_iter().enumerate() {
                let noted = SendNote::noted(Some(&note), copy);
                let expected = if later > at {
                    SendNote { sends: 0, replayed_at: copy }
                } else {
                    SendNote { sends: 2, replayed_at: replayed }
                };
                assert_eq!(noted, expected, "{replayed:?} {copy:?}");
            }
        }
    }

    #[test]
    fn missing_and_unreadable_notes_count_nothing() {
        assert_eq!(SendNote::noted(None, None), SendNote::default());
        assert_eq!(SendNote::noted(Some(b"x"), None).again().sends, 1);
    }
}
