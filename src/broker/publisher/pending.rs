//! Messages that were published and have no reply yet.

use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};
use tracing::Span;

use super::PublishError;
use crate::{
    broker::port::MessageKey,
    telemetry::metrics::{PublishMetrics, labels::Published},
};

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
