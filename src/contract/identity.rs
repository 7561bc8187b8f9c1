//! The identity of a message: its event's id, trace and time.

use jiff::Timestamp;

use super::{ids::EventId, message::Message, trace::TraceContext};

/// Event id, trace and time of a message, valid or not.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The event's id.
    pub event_id: EventId,
    /// The event's trace, if the message came with one.
    pub trace: Option<TraceContext>,
    /// The event's own time, if it has one.
    pub occurred_at: Option<Timestamp>,
}

impl Identity {
    /// Identifies `message` without parsing its body.
    #[must_use]
    pub fn without_body(message: &Message) -> Self {
        Self {
            event_id: EventId::of(message.message_id.as_deref(), None, &message.body),
            trace: TraceContext::of(&message.headers),
            occurred_at: message.published_at,
        }
    }
}
