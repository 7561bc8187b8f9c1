//! Publishes a stage's messages, and records which of them the broker confirmed.

use std::{future::Future, pin::pin, time::Duration};

use futures_util::future::{Either, OptionFuture, select};
use jiff::Timestamp;
use tokio::{
    sync::watch,
    time::{timeout, timeout_at},
};
use tracing::warn;
use uuid::Uuid;

use super::{
    DeliveryContext, Settlement, Settler,
    publish::{Sending, Unpublished},
};
use crate::{
    broker::publisher::PublishError,
    contract::{message::Message, outgoing::Outgoing},
    outcome::{Batch, Class, Death, Settled, Then},
};

/// If only some messages of an event are confirmed after this time, those are recorded.
pub(super) const RECORD_AFTER: Duration = Duration::from_millis(250);

impl Settler {
    /// Publishes the messages of `batch`, records which of them the broker confirmed, and settles the delivery.
    pub(super) async fn publish_batch(
        &self,
        context: &DeliveryContext,
        message: &Message,
        Batch { outgoing, then, is_rejection }: Batch,
        now: Timestamp,
    ) -> Settlement {
        let left = left(&outgoing, now);
        let (messages, (tell, confirmed)) = (&outgoing, watch::channel(Vec::new()));
        let publish = pin!(async move {
            // A publisher without a connection waits, and drops jobs whose caller has given up. With no time left, do
            // not even try: the publish could win the race against the timeout.
            if left.is_zero() {
                return None;
            }
            let sending = messages.iter().map(|outgoing| self.outgoing(context, outgoing, now)).collect();
            let confirmed = |one: &Sending| {
                let Some((message_id, route)) = one.outgoing else { return };
                self.metrics.published(route);
                tell.send_modify(|confirmed| confirmed.push(message_id));
            };
            timeout(left, self.publish(context, sending, confirmed)).await.ok()
        });
        let recording = pin!(record(then, confirmed));
        let (published, recording) = match select(publish, recording).await {
            Either::Left((published, recording)) => (published, Some(recording)),
            Either::Right(((), publish)) => (publish.await, None),
        };
        let recorded = self.recorded(context, recording);
        let Some(published) = published else {
            recorded.await;
            let reason = "the session ended before its messages could be published";
            return self.dead(context, message, &Death::new(Class::Expired, reason)).await;
        };
        let Err(Unpublished { error, keys }) = published else {
            let took = self.clock.now().duration_since(context.happened_at);
            if !is_rejection {
                self.metrics.delivered(Duration::try_from(took).unwrap_or_default());
            }
            let ack = self.ack(context, Settlement::of(Settled::Done, None));
            // The record starts before the ack, and the ack does not wait for it: the broker does not redeliver an
            // acknowledged message.
            return tokio::join!(recorded, ack).1;
        };
        // Messages that were confirmed must not be published again with the others.
        recorded.await;
        if error == PublishError::Unroutable {
            let reason = format!("no queue is bound to {keys}");
            self.dead(context, message, &Death::new(Class::Unroutable, reason)).await
        } else {
            self.unfulfilled(context, error.to_string()).await
        }
    }

    /// Waits until the confirmed messages are recorded, at most for the processing time.
    async fn recorded(&self, context: &DeliveryContext, recording: Option<impl Future<Output = ()>>) {
        if timeout_at(self.until(context), OptionFuture::from(recording)).await.is_err() {
            warn!(
                "could not record published links in the ledger in time; if their event is delivered again, the same links are \
                 published again"
            );
        }
    }
}

/// Records confirmed messages until no more can follow. If others are not confirmed yet, a first record is made early:
/// another worker then does not publish these messages again.
async fn record(mut then: Then, mut confirmed: watch::Receiver<Vec<Uuid>>) {
    while confirmed.changed().await.is_ok() {
        let all = async { while confirmed.changed().await.is_ok() {} };
        _ = timeout(RECORD_AFTER, all).await;
        let confirmed = confirmed.borrow_and_update().clone();
        then.confirmed(confirmed).await;
    }
}

/// Time until the first session of `outgoing` is over; very long if `outgoing` is empty.
fn left(outgoing: &[Outgoing], now: Timestamp) -> Duration {
    let deadline = outgoing.iter().map(|outgoing| outgoing.deadline.timestamp()).min();
    Duration::try_from(deadline.unwrap_or(Timestamp::MAX).duration_since(now)).unwrap_or_default()
}
