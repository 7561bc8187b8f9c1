//! Messages that were published and have no answer yet.

use lapin::BasicProperties;
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};
use tracing::Span;

use super::PublishError;
use crate::telemetry::metrics::{PublishMetrics, labels::Published};

/// Identifies a returned message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MessageKey {
    pub(super) exchange: String,
    pub(super) routing_key: String,
    pub(super) message_id: Option<String>,
}

impl MessageKey {
    pub(super) fn of(exchange: &str, routing_key: &str, properties: &BasicProperties) -> Self {
        let message_id = properties.message_id().as_ref().map(|id| id.as_str().to_owned());
        Self { exchange: exchange.to_owned(), routing_key: routing_key.to_owned(), message_id }
    }
}

pub(super) struct Pending {
    pub(super) key: MessageKey,
    pub(super) delivery: Span,
    pub(super) since: Instant,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Result<(), PublishError>>,
    pub(super) _room: Option<OwnedSemaphorePermit>,
}

impl Pending {
    pub(super) fn answer(self, result: Result<(), PublishError>, metrics: &PublishMetrics) {
        let published = match result {
            Ok(()) => Published::Confirmed,
            Err(PublishError::Unroutable) => Published::Returned,
            Err(PublishError::Nacked) => Published::Nacked,
            Err(PublishError::Unknown | PublishError::Ended) => Published::Unknown,
        };
        metrics.published(published, self.since.elapsed());
        // The caller may have given up; then the reply is not needed.
        _ = self.reply.send(result);
    }
}
