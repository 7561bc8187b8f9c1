//! Messages that a stage gives out, independent of their contents and of AMQP.

use uuid::Uuid;

use super::{private::Private, time::WireTime};

/// The way of an outgoing message: where it is published, and how it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Name of the exchange, without the prefix.
    pub exchange: &'static str,
    /// The routing key.
    pub routing_key: &'static str,
    /// Label `role` of the metric `links_total`.
    pub role: &'static str,
    /// Label `channel` of the metric `links_total`.
    pub channel: &'static str,
}

/// A message ready to be published.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Exchange, routing key and labels.
    pub route: Route,
    /// The property `type`.
    pub kind: &'static str,
    /// The property `message_id`, the same at every repeat of the event.
    pub message_id: Uuid,
    /// The property `correlation_id`, at most 255 bytes.
    pub correlation_id: Private<String>,
    /// The body, JSON.
    pub body: Private<Vec<u8>>,
    /// When the session ends. The message must not be published after that time.
    pub deadline: WireTime,
}

/// The AMQP property `correlation_id`: `given`, or the event's id if AMQP cannot carry it. An AMQP short string has at most 255 bytes, and
/// some clients refuse control characters. Such a correlation id is only in the body.
pub(crate) fn short_correlation(given: Option<&str>, event_id: &str) -> Private<String> {
    let given = given.filter(|id| !id.is_empty() && id.len() <= 255 && !id.chars().any(char::is_control));
    Private::new(given.unwrap_or(event_id).to_owned())
}
