//! A message as a stage sees it, whatever carried it.

use std::{collections::BTreeMap, fmt, time::Duration};

use jiff::Timestamp;

/// A message that came in. Its body and headers may hold anything, so its `Debug` shows neither.
#[derive(Clone, Default)]
pub struct Message {
    /// The bytes, as they came.
    pub body: Vec<u8>,
    /// The `content_type` property.
    pub content_type: Option<String>,
    /// The `content_encoding` property.
    pub content_encoding: Option<String>,
    /// The `message_id` property.
    pub message_id: Option<String>,
    /// The `correlation_id` property.
    pub correlation_id: Option<String>,
    /// The `timestamp` property, whole seconds.
    pub published_at: Option<Timestamp>,
    /// The headers that are text.
    pub headers: BTreeMap<String, String>,
}

impl Message {
    /// The header `name`, where there is one.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Attempts that were counted against this message before (header `x-attempts`).
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.header(super::header::ATTEMPTS).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// How often this message was delivered before without an outcome (header `x-delivery-count`, RabbitMQ's own).
    #[must_use]
    pub fn deliveries(&self) -> u32 {
        self.header(super::header::DELIVERY_COUNT).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// How long this message has waited between counted attempts (header `x-waited-ms`).
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.header(super::header::WAITED)
            .and_then(|text| text.parse().ok())
            .map_or(Duration::ZERO, Duration::from_millis)
    }

    /// When this message may be tried again (header `x-not-before`, which means something only on a copy that was held).
    #[must_use]
    pub fn not_before(&self) -> Option<Timestamp> {
        self.header(super::header::RETRY_REASON)?;
        self.header(super::header::NOT_BEFORE).and_then(|text| text.parse().ok())
    }

    /// When this dead letter was replayed last (header `x-replayed-at`).
    #[must_use]
    pub fn replayed_at(&self) -> Option<Timestamp> {
        self.header(super::header::REPLAYED_AT).and_then(|text| text.parse().ok())
    }

    /// When this message failed first (header `x-first-failed-at`).
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
