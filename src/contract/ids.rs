//! Deterministic ids: a repeated event yields the same ids.

use strum::IntoStaticStr;
use uuid::Uuid;

/// Namespace of every UUIDv5 of this project: the UUIDv5 of `instant-connect-worker` in the DNS namespace of RFC 9562. It must
/// never change, because every `message_id` depends on it.
pub const NAMESPACE: Uuid = Uuid::from_u128(0x2987_967b_d61c_54be_896e_836e_48cb_8df1);

/// Returns the UUIDv5 of `bytes` in [`NAMESPACE`].
#[must_use]
pub fn hash(bytes: &[u8]) -> Uuid {
    Uuid::new_v5(&NAMESPACE, bytes)
}

/// Returns the event id of a CloudEvent: `{source}#{id}`, or `id` without a source. CloudEvents ids are unique only within their
/// source (CloudEvents 1.0, "id"), so equal ids of two flows must yield two events.
#[must_use]
pub fn cloud_event(source: Option<&str>, id: &str) -> String {
    match source.filter(|source| !source.is_empty() && !id.is_empty()) {
        // A `#` in the source would make the pair ambiguous, so it is hashed with the length of the source.
        Some(source) if source.contains('#') => {
            hash(format!("{}:{source}{id}", source.len()).as_bytes()).to_string()
        }
        Some(source) => format!("{source}#{id}"),
        None => id.to_owned(),
    }
}

/// Id of a start event, the same at every delivery: 1 to 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(String);

impl EventId {
    /// Chooses the first of: the AMQP `message_id`, the id that [`cloud_event`] makes of a CloudEvent, a UUIDv5 of the body.
    /// An empty id counts as none. An id over 255 bytes is replaced by its UUIDv5.
    #[must_use]
    pub fn of(message_id: Option<&str>, cloud_event_id: Option<&str>, body: &[u8]) -> Self {
        let given = [message_id, cloud_event_id].into_iter().flatten().find(|id| !id.is_empty());
        Self(match given {
            // An AMQP short string has at most 255 bytes.
            Some(id) if id.len() > 255 => hash(id.as_bytes()).to_string(),
            Some(id) => id.to_owned(),
            None => hash(body).to_string(),
        })
    }

    /// The id as received; use [`super::private::loggable_id`] for logs.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The `message_id` of the link for the person at `position` (from 0) in `role`.
    #[must_use]
    pub fn link_id(&self, role: Role, position: usize) -> Uuid {
        hash(format!("{}/{}/{position}", self.0, role.as_str()).as_bytes())
    }
}

/// Role of a link's recipient in the meeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Role {
    /// Opens the meeting as its host.
    Host,
    /// Joins as a guest.
    Guest,
}

impl Role {
    /// `host` or `guest`, as in routing keys and ids.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// True if `text` has only ASCII letters, digits, `-` and `_`, or is empty.
#[must_use]
pub fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Returns the JWT subject of a session: a `sessionId` of letters, digits, `-` and `_` unchanged, else its UUIDv5. The same
/// subject always leads to the same meeting, and Webex may show it as the meeting's title.
#[must_use]
pub fn subject(session_id: &str) -> String {
    if is_plain(session_id) { session_id.to_owned() } else { hash(session_id.as_bytes()).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_id_is_the_first_non_empty_candidate() {
        let of = |m, c| EventId::of(m, c, b"{}");
        assert_eq!(of(Some("m"), Some("c")).as_str(), "m");
        assert_eq!(of(Some(""), Some("c")).as_str(), "c");
        assert_eq!(of(None, None), of(None, Some("")));
        assert_eq!(of(None, None).as_str(), hash(b"{}").to_string());
        assert_eq!(EventId::of(None, Some(&"x".repeat(256)), b"").as_str().len(), 36);
    }

    #[test]
    fn cloud_event_ids_differ_by_source() {
        let of = |source, id| cloud_event(source, id);
        assert_eq!(of(None, "1"), "1");
        assert_eq!(of(Some(""), "1"), "1");
        assert_eq!(of(Some("/flows/a"), ""), "");
        assert_eq!(of(Some("/flows/a"), "1"), of(Some("/flows/a"), "1"));
        assert_ne!(of(Some("/flows/a"), "1"), of(Some("/flows/b"), "1"));
        assert_eq!(of(Some("/flows/a"), "1"), "/flows/a#1");
        assert_ne!(of(Some("/flows/a#1"), "1"), of(Some("/flows/a"), "1#1"));
    }

    #[test]
    fn link_ids_differ_by_role_and_position_and_stay_fixed() {
        let id = EventId::of(Some("e1"), None, b"");
        assert_ne!(id.link_id(Role::Guest, 0), id.link_id(Role::Guest, 1));
        assert_ne!(id.link_id(Role::Guest, 0), id.link_id(Role::Host, 0));
        // Pinned, because consumers deduplicate by it across versions of this program.
        assert_eq!(id.link_id(Role::Guest, 0).to_string(), "9a58bed1-6e22-51ff-b40f-df2011762f7f");
    }

    #[test]
    fn subject_hashes_free_text() {
        assert_eq!(subject("visit-48_151623"), "visit-48_151623");
        assert_eq!(subject("Ana +34600111222").len(), 36);
        assert_ne!(subject("visit 1"), subject("visit 2"));
    }
}
