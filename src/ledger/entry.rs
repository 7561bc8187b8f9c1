//! What is kept for a key.

use std::fmt;

use jiff::Timestamp;

/// A hash of the body that a key came with.
pub(super) type Fingerprint = [u8; 32];

/// What is known of an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryState {
    /// Somebody was about to act, and whether the effect happened is unknown; or a part of it happened.
    Noted,
    /// It happened.
    Recorded,
}

/// What is kept for a key, until it may be forgotten.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(super) fingerprint: Fingerprint,
    pub(super) state: EntryState,
    /// The note or the result, which may hold links.
    pub(super) bytes: Vec<u8>,
    pub(super) until: Timestamp,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state, bytes, until, .. } = self;
        write!(f, "Entry({state:?}, {} bytes, until {until})", bytes.len())
    }
}

#[cfg(test)]
impl Entry {
    /// Whether the effect happened.
    pub(crate) fn is_recorded(&self) -> bool {
        self.state == EntryState::Recorded
    }

    /// What it says.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// What a claimant finds.
#[derive(Debug)]
pub(super) enum Found {
    /// Not done, or not wholly; a note, where somebody was about to, or did a part.
    Free(Option<Vec<u8>>),
    Recorded(Vec<u8>),
    Conflict,
    Busy,
}

impl Found {
    /// What `entry` means to a claimant with `fingerprint`, at `now`.
    pub(super) fn of(entry: Option<Entry>, fingerprint: &Fingerprint, now: Timestamp) -> Self {
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
    fn what_is_kept_counts_until_its_end_for_its_own_body() {
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
    fn it_is_printed_without_what_is_kept() {
        let printed = format!("{:?}", entry(EntryState::Noted, 1));
        assert_eq!(printed, "Entry(Noted, 6 bytes, until 1970-01-01T00:00:01Z)");
    }
}
