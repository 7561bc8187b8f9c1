//! Ids that are the same at every repeat.

use strum::IntoStaticStr;
use uuid::Uuid;

/// The namespace of every UUIDv5 of this project (itself the UUIDv5 of `instant-connect-worker` under the DNS
/// namespace of RFC 9562). Changing it changes every `message_id`, so it never changes.
pub const NAMESPACE: Uuid = Uuid::from_u128(0x2987_967b_d61c_54be_896e_836e_48cb_8df1);

/// UUIDv5 of `bytes` in this project's [`NAMESPACE`].
#[must_use]
pub fn hash(bytes: &[u8]) -> Uuid {
    Uuid::new_v5(&NAMESPACE, bytes)
}

/// The id of the CloudEvent called `id` of `source`, `{source}#{id}`. Ids are unique within their source alone (CloudEvents
/// 1.0, "id"): two flows that both count from 1 must not meet in one event. Without a source it is `id` itself.
#[must_use]
pub fn cloud_event(source: Option<&str>, id: &str) -> String {
    match source.filter(|source| !source.is_empty() && !id.is_empty()) {
        // Else two pairs could read alike.
        Some(source) if source.contains('#') => {
            hash(format!("{}:{source}{id}", source.len()).as_bytes()).to_string()
        }
        Some(source) => format!("{source}#{id}"),
        None => id.to_owned(),
    }
}

/// What one start event is known by, wherever it is delivered and however often: 1 to 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(String);

impl EventId {
    /// The id in its order of preference: the AMQP `message_id`, what [`cloud_event`] makes of a CloudEvent's `source` and
    /// `id`, a UUIDv5 of the body.
    /// An empty id counts as none, one of more than 255 bytes as its UUIDv5.
    #[must_use]
    pub fn of(message_id: Option<&str>, cloud_event_id: Option<&str>, body: &[u8]) -> Self {
        let given = [message_id, cloud_event_id].into_iter().flatten().find(|id| !id.is_empty());
        Self(match given {
            // No AMQP property could carry a longer one.
            Some(id) if id.len() > 255 => hash(id.as_bytes()).to_string(),
            Some(id) => id.to_owned(),
            None => hash(body).to_string(),
        })
    }

    /// The id as others gave it; use [`super::private::loggable_id`] for logs.
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

/// For whom a link is.
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

/// Whether `text` has letters, digits, `-` and `_` only (ASCII), or nothing.
#[must_use]
pub fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// The JWT subject of a session: `sessionId` as it is when it is letters, digits, `-` and `_` only, else a UUIDv5
/// of it. The same subject always leads to the same meeting, and Webex may show it as the meeting's title.
#[must_use]
pub fn subject(session_id: &str) -> String {
    if is_plain(session_id) { session_id.to_owned() } else { hash(session_id.as_bytes()).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_id_is_the_first_that_is_given() {
        let of = |m, c| EventId::of(m, c, b"{}");
        assert_eq!(of(Some("m"), Some("c")).as_str(), "m");
        assert_eq!(of(Some(""), Some("c")).as_str(), "c");
        assert_eq!(of(None, None), of(None, Some("")));
        assert_eq!(of(None, None).as_str(), hash(b"{}").to_string());
        assert_eq!(EventId::of(None, Some(&"x".repeat(256)), b"").as_str().len(), 36);
    }

    #[test]
    fn cloud_events_of_two_sources_with_one_id_are_two_events() {
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
    fn link_ids_differ_by_event_role_and_position_and_never_change() {
        let id = EventId::of(Some("e1"), None, b"");
        assert_ne!(id.link_id(Role::Guest, 0), id.link_id(Role::Guest, 1));
        assert_ne!(id.link_id(Role::Guest, 0), id.link_id(Role::Host, 0));
        // Pinned: consumers deduplicate by it across versions of this program.
        assert_eq!(id.link_id(Role::Guest, 0).to_string(), "9a58bed1-6e22-51ff-b40f-df2011762f7f");
    }

    #[test]
    fn a_subject_carries_no_free_text() {
        assert_eq!(subject("visit-48_151623"), "visit-48_151623");
        assert_eq!(subject("Ana +34600111222").len(), 36);
        assert_ne!(subject("visit 1"), subject("visit 2"));
    }
}
