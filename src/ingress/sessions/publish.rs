//! The broker's part in a request: publishes its event, with a note before and a record after.

use std::sync::Arc;

use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{RESERVE, StartEvents, ValidEvent, idempotency::release};
use crate::{
    broker::{
        properties,
        publisher::{Publication, PublishError},
    },
    contract::{start_session::ROUTING_KEY, trace::TraceContext},
    fault,
    ingress::problem::HttpProblem,
    ledger::Lease,
};

/// The response to a request whose event is not confirmed.
pub(super) enum NotPublished {
    /// The ledger has a note of the request, or may have it: a repeat is not the first request.
    Noted(HttpProblem),
    /// The event is not published, and the ledger has no note of it.
    Unnoted(HttpProblem),
}

impl StartEvents {
    /// Publishes the event. A note says before that it may be published, and a record afterwards that it is.
    pub(super) async fn publish_noted(
        &self,
        event: ValidEvent,
        mut lease: Option<Lease>,
        room: OwnedSemaphorePermit,
        within: &TraceContext,
        deadline: Instant,
    ) -> Result<(), NotPublished> {
        let (remembered_until, is_repeat) =
            (event.remembered_until, lease.as_ref().is_some_and(|lease| lease.note().is_some()));
        if let Some(lease) = &mut lease {
            self.note(lease, event.message.published_at, remembered_until, deadline).await?;
        }
        match self.publish(event, room, within, deadline).await {
            Ok(()) => {}
            // No queue has it, so the next request is the first one again.
            Err(error @ PublishError::Unroutable) if !is_repeat => {
                let problem = unconfirmed(error);
                let released = release(lease, deadline).await;
                return Err(if released {
                    NotPublished::Unnoted(problem)
                } else {
                    NotPublished::Noted(problem)
                });
            }
            Err(error) => return Err(NotPublished::Noted(unconfirmed(error))),
        }
        fault::point("ingress", "confirmed");
        self.record(lease, remembered_until, deadline).await;
        fault::point("ingress", "recorded");
        Ok(())
    }

    /// Room for a body in the publisher's memory.
    pub(super) fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, HttpProblem> {
        let room = self.outlet.room(bytes, "too many events wait for the broker's confirm");
        room.map_err(HttpProblem::unconfirmed)
    }

    async fn publish(
        &self,
        event: ValidEvent,
        room: OwnedSemaphorePermit,
        within: &TraceContext,
        deadline: Instant,
    ) -> Result<(), PublishError> {
        let id = event.id.to_string();
        let mut span = self.tracer.publish(&self.outlet.exchange, ROUTING_KEY, Some(&id), within);
        let at = event.message.published_at.unwrap_or_else(|| self.clock.now());
        let properties = properties::received_event(&event.message, &id, span.context(), at);
        let publication = Publication {
            exchange: self.outlet.exchange.clone(),
            routing_key: ROUTING_KEY.to_owned(),
            properties,
            body: Arc::from(event.message.body),
        };
        let since = Instant::now();
        let Err(error) = self.outlet.publish(publication, room, deadline - RESERVE).await else {
            self.metrics.confirmed(since.elapsed());
            return Ok(());
        };
        span.fail(error.as_str(), &error.to_string());
        Err(error)
    }
}

fn unconfirmed(error: PublishError) -> HttpProblem {
    HttpProblem::unconfirmed(match error {
        PublishError::Unroutable => "the broker has no queue for start events",
        PublishError::Nacked => "the broker refused the event (is a queue full?)",
        PublishError::Unknown => "the broker did not confirm the event in time",
        PublishError::Ended => "the ingress is stopping",
    })
}
