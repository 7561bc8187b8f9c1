//! The broker's part that start events and receipts share: room in the publisher's memory, and a publish within a time limit.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::{
    broker::publisher::{Publication, PublishError, Publisher},
    state::PublishState,
};

/// Maximum wait for the broker's confirm.
const CONFIRM_MAX: Duration = Duration::from_secs(5);

/// The way to an exchange.
#[derive(Clone, Debug)]
pub struct Outlet {
    pub publisher: Publisher,
    /// The publisher's state. Nothing is given to a publisher that cannot publish now.
    pub publishing: PublishState,
    /// A permit for each byte of the bodies that may wait for their confirms.
    pub room: Arc<Semaphore>,
    /// The name of the exchange.
    pub exchange: String,
}

impl Outlet {
    /// Room for a body in the publisher's memory. A message that is published too late stays there after its request ends.
    ///
    /// # Errors
    /// Why nothing can be published now. `full`: the reason if there is no room.
    pub(super) fn room(
        &self,
        bytes: usize,
        full: &'static str,
    ) -> Result<OwnedSemaphorePermit, &'static str> {
        if !self.publishing.connection.is_up() {
            return Err("the broker is unavailable");
        }
        if self.publishing.is_blocked() {
            return Err("the broker blocks publishing");
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Arc::clone(&self.room).try_acquire_many_owned(bytes).map_err(|_| full)
    }

    /// Publishes, and waits for the confirm until `deadline`, 5 s at most.
    ///
    /// # Errors
    /// [`PublishError`].
    pub(super) async fn publish(
        &self,
        publication: Publication,
        room: OwnedSemaphorePermit,
        deadline: Instant,
    ) -> Result<(), PublishError> {
        let until = (Instant::now() + CONFIRM_MAX).min(deadline);
        let published = timeout_at(until, self.publisher.publish_in(publication, Some(room))).await;
        published.unwrap_or(Err(PublishError::Unknown))
    }
}
