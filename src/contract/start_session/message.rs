//! A start event in its envelope: a plain body, or a CloudEvent.

use std::fmt;

use jiff::Timestamp;

use super::{Refusal, Session, SessionRules, StartSession, session::validated};
use crate::contract::{
    BODY_BYTES_MAX,
    cloud_event::{self, Unwrapped},
    decode::{self, Invalid, Problem},
    header,
    identity::Identity,
    ids::EventId,
    message::Message,
    trace::TraceContext,
};

const ENCODED: &str =
    "expected content_encoding to be empty or identity; compressed bodies are not supported";

/// A start event, taken out of its envelope once: first it is identified, then read.
pub struct StartMessage<'a> {
    message: &'a Message,
    /// The event's identity.
    pub identity: Identity,
    wrapped: Result<Unwrapped<'a>, Invalid>,
}

/// Without the event.
impl fmt::Debug for StartMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartMessage").finish_non_exhaustive()
    }
}

impl<'a> StartMessage<'a> {
    /// Removes the envelope of the start event in `message`.
    #[must_use]
    pub fn open(message: &'a Message) -> Self {
        let wrapped = check_size(message).and_then(|()| cloud_event::unwrap(message));
        Self { message, identity: identity(message, wrapped.as_ref().ok()), wrapped }
    }

    /// The event id that the CloudEvents attributes make, if there are any.
    #[must_use]
    pub fn cloud_event_id(&self) -> Option<&str> {
        self.wrapped.as_ref().ok()?.id.as_deref()
    }

    /// Parses and validates the start event at the time `now`.
    ///
    /// # Errors
    /// [`Refusal`], which names the field and the problem, without values from the message.
    pub fn session(&self, rules: &SessionRules, now: Timestamp) -> Result<Session, Refusal> {
        let Self { message, identity, wrapped } = self;
        check_size(message)?;
        if let Some(encoding) = &message.content_encoding
            && !["", "identity", "utf-8", "utf8"].contains(&encoding.to_ascii_lowercase().as_str())
        {
            return Err(Invalid::new("", ENCODED).into());
        }
        let wrapped = wrapped.as_ref().map_err(Invalid::clone)?;
        let path = wrapped.path;
        let within = |invalid: Invalid| if path.is_empty() { invalid } else { invalid.within(path) };
        let start: StartSession = decode::from_json(wrapped.data)
            .map_err(|invalid| with_sender_hint(invalid, message))
            .map_err(within)?;
        validated(start, message, identity, rules, now).map_err(|refusal| refusal.map(within))
    }
}

/// Identifies the start event in `message`, including the attributes of a CloudEvent.
#[must_use]
pub fn identify(message: &Message) -> Identity {
    StartMessage::open(message).identity
}

fn identity(message: &Message, wrapped: Option<&Unwrapped<'_>>) -> Identity {
    let mut headers = wrapped.map(|wrapped| wrapped.trace.clone()).unwrap_or_default();
    let own = message
        .headers
        .iter()
        .filter(|(name, _)| matches!(name.as_str(), header::TRACEPARENT | header::TRACESTATE));
    headers.extend(own.map(|(name, value)| (name.clone(), value.clone())));
    let id = wrapped.and_then(|wrapped| wrapped.id.as_deref());
    Identity {
        event_id: EventId::of(message.message_id.as_deref(), id, &message.body),
        trace: TraceContext::of(&headers),
        occurred_at: wrapped.and_then(|wrapped| wrapped.time).or(message.published_at),
    }
}

fn check_size(message: &Message) -> Result<(), Invalid> {
    if message.body.len() > BODY_BYTES_MAX {
        let problem = Problem::TooLarge { bytes: message.body.len(), max: BODY_BYTES_MAX };
        return Err(Invalid::new("", problem));
    }
    Ok(())
}

fn with_sender_hint(invalid: Invalid, message: &Message) -> Invalid {
    match cloud_event::sender_hint(message) {
        Some(hint) => invalid.with_hint(hint),
        None => invalid,
    }
}
