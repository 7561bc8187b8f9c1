//! A message as a stage sees it, independent of AMQP.

use std::{collections::BTreeMap, fmt, time::Duration};

use jiff::Timestamp;

/// A received message. `Debug` shows neither body nor headers, because both may hold private data.
#[derive(Clone, Default)]
pub struct Message {
    /// The body, unchanged.
    pub body: Vec<u8>,
    /// The `content_type` property.
    pub content_type: Option<String>,
    /// The `content_encoding` property.
    pub content_encoding: Option<String>,
    /// The `message_id` property.
    pub message_id: Option<String>,
    /// The `correlation_id` property.
    pub correlation_id: Option<String>,
    /// The `timestamp` property, in whole seconds.
    pub published_at: Option<Timestamp>,
    /// The headers whose values are text, whole numbers or times, all as text.
    pub headers: BTreeMap<String, String>,
}

impl Message {
    /// The header `name`, if present.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Number of attempts counted so far (header `x-attempts`).
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.header(super::header::ATTEMPTS).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Number of earlier deliveries without an outcome (header `x-delivery-count`, set by RabbitMQ).
    #[must_use]
    pub fn deliveries(&self) -> u32 {
        self.header(super::header::DELIVERY_COUNT).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Total time that this message has waited between counted attempts (header `x-waited-ms`).
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.header(super::header::WAITED)
            .and_then(|text| text.parse().ok())
            .map_or(Duration::ZERO, Duration::from_millis)
    }

    /// Earliest time of the next attempt (header `x-not-before`). `None` unless `x-retry-reason` marks a delayed copy.
    #[must_use]
    pub fn not_before(&self) -> Option<Timestamp> {
        self.header(super::header::RETRY_REASON)?;
        self.header(super::header::NOT_BEFORE).and_then(|text| text.parse().ok())
    }

    /// Time of the last replay of this dead letter (header `x-replayed-at`).
    #[must_use]
    pub fn replayed_at(&self) -> Option<Timestamp> {
        self.header(super::header::REPLAYED_AT).and_then(|text| text.parse().ok())
    }

    /// Time of the first failure (header `x-first-failed-at`).
    #[must_use]
    pub fn first_failed_at(&self) -> Option<Timestamp> {
        self.header(super::header::FIRST_FAILED_AT).and_then(|text| text.parse().ok())
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message").field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}
