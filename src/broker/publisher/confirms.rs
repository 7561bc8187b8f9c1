//! Confirms of one channel, and the returns that may belong to them.

use std::pin::pin;

use futures_util::{FutureExt, StreamExt};
use tokio::time::{Instant, timeout};
use tracing::{Span, warn};

use super::{
    PublishError,
    session::{CHECK_INTERVAL, PublishSession},
};
use crate::{
    broker::{
        connection::BrokerError,
        port::{BrokerChannel, BrokerConnection, Confirmation},
    },
    fault,
};

impl<C: BrokerConnection> PublishSession<'_, C> {
    /// Processes a confirm and any that arrived with it.
    pub(super) async fn handle_confirm(
        &mut self,
        id: u64,
        confirmation: lapin::Result<Confirmation>,
    ) -> Result<(), BrokerError> {
        self.record_confirm(id, confirmation)?;
        self.resolve_recorded().await
    }

    /// Resolves the recorded messages whose returns can no longer arrive.
    pub(super) async fn resolve_recorded(&mut self) -> Result<(), BrokerError> {
        self.record_ready_confirms()?;
        let mut resolvable = self.unresolved.len();
        if !self.confirms.is_empty() {
            // A return may still be in flight with a confirm that lapin is settling right now. The reply to a request
            // sent now arrives after that return.
            let channel = self.channel.clone();
            self.await_reply("select confirms", channel.select_confirms()).await?;
            self.record_ready_confirms()?;
        }
        if self.confirms.is_empty() {
            // No outstanding confirm could carry a return. Otherwise the rest is resolved with the next confirm, or soon without.
            resolvable = self.unresolved.len();
        }
        self.resolve(resolvable);
        // A return cannot refer to messages published before the oldest pending one.
        let oldest = self.pending.keys().next().copied().unwrap_or(u64::MAX);
        self.returned.retain(|(_, before)| *before > oldest);
        if let Some(delivery) = self.missing.take() {
            self.redeclare(&delivery).await?;
            // Confirms that arrived meanwhile were not processed, so their time limits restart.
            self.restart_time_limits();
        }
        Ok(())
    }

    /// Redeclares what this program declares and somebody deleted. Nothing else is published before, so a retry finds
    /// the queue.
    async fn redeclare(&mut self, delivery: &Span) -> Result<(), BrokerError> {
        warn!(parent: delivery, "queue or binding missing; redeclaring topology");
        let (topology, connection) = (self.topology, self.connection);
        topology.invalidate();
        let mut ensured = pin!(topology.ensure(connection, self.limit));
        loop {
            match timeout(CHECK_INTERVAL, &mut ensured).await {
                Ok(Ok(())) => {
                    topology.notify_redeclared();
                    // The channel still refers to the deleted queue. The broker confirms nothing on it that goes to
                    // the new queue of the same name.
                    self.stale_since = Some(Instant::now());
                    return Ok(());
                }
                Ok(Err(error)) => {
                    warn!(parent: delivery, %error, "could not redeclare topology");
                    return Ok(());
                }
                Err(_) => _ = self.is_blocked()?,
            }
        }
    }

    pub(super) fn record_ready_confirms(&mut self) -> Result<(), BrokerError> {
        while let Some(Some((id, confirmation))) = self.confirms.next().now_or_never() {
            self.record_confirm(id, confirmation)?;
        }
        Ok(())
    }

    fn record_confirm(
        &mut self,
        id: u64,
        confirmation: lapin::Result<Confirmation>,
    ) -> Result<(), BrokerError> {
        let Confirmation { acked, returned } =
            confirmation.map_err(|error| BrokerError::Lapin("confirm", error))?;
        self.unresolved.push((id, acked));
        self.last_answer = Instant::now();
        self.returned.extend(returned.map(|returned| (returned, self.next)));
        Ok(())
    }

    /// Replies to the callers of the first `count` unresolved messages.
    fn resolve(&mut self, count: usize) {
        for (id, acked) in self.unresolved.drain(..count) {
            let Some(pending) = self.pending.remove(&id) else { continue };
            // Messages with equal keys can't be told apart: if one was returned, none of them counts as delivered.
            let returned = self.returned.iter().any(|(key, before)| id < *before && *key == pending.key);
            let result = match (returned, acked) {
                (true, _) => {
                    // This program declares queues only if topology.declare is "create".
                    if self.topology.creates() {
                        self.missing = Some(pending.delivery.clone());
                    } else if pending.key.exchange.is_empty()
                        && self.reported.insert(pending.key.routing_key.clone())
                    {
                        let queue = &pending.key.routing_key;
                        warn!(parent: &pending.delivery, queue, "queue missing; declare it with `instant-connect-worker topology --declare`");
                    }
                    Err(PublishError::Unroutable)
                }
                (false, true) => Ok(()),
                (false, false) => Err(PublishError::Nacked),
            };
            match result {
                Ok(()) => self.refusals.record(&pending.key, true),
                Err(PublishError::Nacked) => self.refusals.record(&pending.key, false),
                Err(_) => {}
            }
            fault::point("publish", "confirmed");
            pending.answer(result, self.metrics);
        }
    }
}
