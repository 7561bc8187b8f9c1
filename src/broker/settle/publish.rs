//! Publishes messages with confirms, and repeats those that were not confirmed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use jiff::Timestamp;
use lapin::BasicProperties;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::{DeliveryContext, Settler};
use crate::{
    broker::{
        port::Receipt,
        properties,
        publisher::{Publication, PublishError},
    },
    contract::{
        outgoing::{Outgoing, Route},
        private::loggable_id,
        trace::TraceContext,
    },
    retry,
    telemetry::traces::DeliverySpan,
};

impl Settler {
    pub(super) fn outgoing(&self, context: &DeliveryContext, outgoing: &Outgoing, now: Timestamp) -> Sending {
        let exchange = self.topology.exchange(outgoing.route.exchange);
        let routing_key = outgoing.route.routing_key.to_owned();
        let message_id = outgoing.message_id.to_string();
        let span = self.tracer.publish(&exchange, &routing_key, Some(&message_id), &context.trace);
        let properties = properties::outgoing(outgoing, span.context(), now);
        let body = outgoing.body.reveal().as_slice().into();
        let publication = Publication { exchange, routing_key, properties, body };
        Sending { publication, span, outgoing: Some((outgoing.message_id, outgoing.route)) }
    }

    /// A copy of the delivery for `queue`, one of our own queues.
    pub(super) fn copy(
        &self,
        context: &DeliveryContext,
        queue: String,
        properties: impl FnOnce(&str, &TraceContext) -> BasicProperties,
        body: &[u8],
    ) -> Sending {
        let message_id = context.properties.message_id().as_ref().map(|id| loggable_id(id.as_str()));
        let span = self.tracer.publish("", &queue, message_id.as_deref(), &context.trace);
        let properties = properties(&queue, span.context());
        let publication =
            Publication { exchange: String::new(), routing_key: queue, properties, body: body.into() };
        Sending { publication, span, outgoing: None }
    }

    /// Publishes all messages, and repeats those that were not confirmed. Ends when all are confirmed, one is
    /// unroutable or the processing time is over. Once the delivery's channel is closed, no message is published any more, but the
    /// confirms of a stage's messages are still awaited. Calls `confirmed` for each confirmed message at once.
    pub(super) async fn publish(
        &self,
        context: &DeliveryContext,
        mut sending: Vec<Sending>,
        confirmed: impl FnMut(&Sending),
    ) -> Result<(), Unpublished> {
        let result = self.publish_all(context, &mut sending, confirmed).await;
        if let Err(Unpublished { error, .. }) = &result {
            for one in &mut sending {
                one.span.fail(error.as_str(), &error.to_string());
            }
        }
        result
    }

    async fn publish_all(
        &self,
        context: &DeliveryContext,
        sending: &mut Vec<Sending>,
        mut confirmed: impl FnMut(&Sending),
    ) -> Result<(), Unpublished> {
        let (mut tries, mut redeclared) = (0, !self.topology.creates());
        loop {
            // The broker redelivers the message because its channel is closed. Publishing now would cause a
            // duplicate.
            if !context.receipt.usable() {
                return Err(PublishError::Unknown.into());
            }
            let until = self.until(context);
            // The publisher redeclares a missing queue of ours, and those of a stage's messages if this program declares
            // them. The next try then finds the queue. A message returned after that is of no interest.
            let ours = sending.iter().all(|one| one.publication.exchange.is_empty());
            let gone = gone(&context.receipt).shared();
            let publish = |(position, one): (usize, &Sending)| {
                let publish = self.publisher.publish_unless(one.publication.clone(), gone.clone());
                async move { (position, publish.await) }
            };
            let mut answers: FuturesUnordered<_> = sending.iter().enumerate().map(publish).collect();
            let mut results = vec![Err(PublishError::Unknown); sending.len()];
            let answered = async {
                while let Some((position, result)) = answers.next().await {
                    if result.is_ok() {
                        confirmed(&sending[position]);
                    }
                    results[position] = result;
                }
            };
            let ended = tokio::select! {
                biased;
                () = answered => false,
                // The redelivered message gets a copy of its own.
                () = gone.clone(), if ours => true,
                () = sleep_until(until) => true,
            };
            let keys = unroutable(sending, &results);
            let mut failed = results.iter().map(Result::is_err);
            sending.retain(|_| failed.next().unwrap_or(true));
            if ended {
                return Err(PublishError::Unknown.into());
            }
            if !ours && !keys.is_empty() && std::mem::replace(&mut redeclared, true) {
                return Err(Unpublished { error: PublishError::Unroutable, keys });
            }
            let Some(error) = results.iter().find_map(|result| result.err()) else { return Ok(()) };
            tries += 1;
            let wait = retry::reconnect_wait(
                Duration::from_millis(50),
                Duration::from_secs(5),
                tries,
                self.random.fraction(),
            );
            if error == PublishError::Ended || Instant::now() + wait >= context.keep_until {
                return Err(Unpublished { error, keys });
            }
            sleep(wait).await;
        }
    }
}

/// Resolves when the delivery's channel is closed.
async fn gone(receipt: &Receipt) {
    while receipt.usable() {
        sleep(Duration::from_secs(1)).await;
    }
}

/// A message being published, and its span.
pub(super) struct Sending {
    pub(super) publication: Publication,
    pub(super) span: DeliverySpan,
    /// Message id and route, for a message of the stage.
    pub(super) outgoing: Option<(Uuid, Route)>,
}

/// The error of a batch that is not known to be delivered, and the exchanges and routing keys without a queue.
pub(super) struct Unpublished {
    pub(super) error: PublishError,
    pub(super) keys: String,
}

impl From<PublishError> for Unpublished {
    fn from(error: PublishError) -> Self {
        Self { error, keys: String::new() }
    }
}

/// The exchanges and routing keys of returned messages, each once.
fn unroutable(sending: &[Sending], results: &[Result<(), PublishError>]) -> String {
    let returned =
        sending.iter().zip(results).filter(|(_, result)| **result == Err(PublishError::Unroutable));
    let mut keys: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (Sending { publication, .. }, _) in returned {
        keys.entry(&publication.exchange).or_default().insert(&publication.routing_key);
    }
    let texts = keys.into_iter().map(|(exchange, keys)| {
        format!("exchange {exchange} for {}", keys.into_iter().collect::<Vec<_>>().join(" or "))
    });
    texts.collect::<Vec<_>>().join(" and ")
}
