//! The ledger's entry for a key.

use std::fmt;

use jiff::Timestamp;

/// Hash of the content that claims a key: the same at every repeat of an effect.
pub(crate) type Fingerprint = [u8; 32];

/// Known state of an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// The effect was about to happen and its outcome is unknown, or a part of it happened.
    Noted,
    /// The effect happened.
    Recorded,
}

/// An entry, valid until its expiry time.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    pub(crate) fingerprint: Fingerprint,
    pub state: EntryState,
    /// The note or the result, which may hold links.
    pub bytes: Vec<u8>,
    pub(crate) until: Timestamp,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state, bytes, until, .. } = self;
        write!(f, "Entry({state:?}, {} bytes, until {until})", bytes.len())
    }
}

/// A change of a key.
pub enum Change {
    Put(Entry),
    Remove,
}

/// Result of looking up an entry.
#[derive(Debug)]
pub(crate) enum Found {
    /// The effect is not complete. The note of an earlier holder, if there is one.
    Free(Option<Vec<u8>>),
    Recorded(Vec<u8>),
    Conflict,
    Busy,
}

impl Found {
    /// Evaluates `entry` for a claimant with `fingerprint`, at `now`.
    pub(crate) fn of(entry: Option<Entry>, fingerprint: &Fingerprint, now: Timestamp) -> Self {
        match entry {
            Some(entry) if entry.until > now => match entry.state {
                _ if entry.fingerprint != *fingerprint => Self::Conflict,
                EntryState::Recorded => Self::Recorded(entry.bytes),
                EntryState::Noted => Self::Free(Some(entry.bytes)),
            },
            _ => Self::Free(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn entry(state: EntryState, seconds: i64) -> Entry {
        let until = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
        Entry { fingerprint: [1; 32], state, bytes: b"secret".to_vec(), until }
    }

    #[test]
    fn entry_is_valid_until_expiry_for_its_own_body() {
        let found =
            |state, seconds, body| Found::of(Some(entry(state, seconds)), &[body; 32], Timestamp::UNIX_EPOCH);
        assert!(matches!(found(EntryState::Recorded, 1, 1), Found::Recorded(bytes) if bytes == b"secret"));
        assert!(matches!(found(EntryState::Noted, 1, 1), Found::Free(Some(bytes)) if bytes == b"secret"));
        for state in [EntryState::Recorded, EntryState::Noted] {
            assert!(matches!(found(state, 1, 2), Found::Conflict));
            assert!(matches!(found(state, 0, 1), Found::Free(None)));
            assert!(matches!(found(state, 0, 2), Found::Free(None)));
        }
    }

    #[test]
    fn debug_output_hides_the_value() {
        let printed = format!("{:?}", entry(EntryState::Noted, 1));
        assert_eq!(printed, "Entry(Noted, 6 bytes, until 1970-01-01T00:00:01Z)");
    }
}
