//! Carries out an outcome: publishes its messages with confirms, then settles the delivery. Deliveries are
//! acknowledged only here.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::pin,
    time::Duration,
};

use futures_util::{
    StreamExt,
    future::{Either, OptionFuture, select},
    stream::FuturesUnordered,
};
use jiff::Timestamp;
use lapin::BasicProperties;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::warn;
use uuid::Uuid;

use super::{
    connection::BrokerError,
    port::Receipt,
    properties::{self, RetryHeaders},
    publisher::{Publication, PublishError, Publisher},
    topology::{Redeclared, Topology},
};
use crate::{
    breaker::{BreakerVerdict, Postponed},
    clock::Clock,
    contract::{
        message::Message,
        outgoing::{Outgoing, Route},
        private::loggable_id,
        trace::TraceContext,
    },
    fault,
    outcome::{Batch, Cause, Class, Death, Failure, Outcome, Settled, Then},
    retry::{self, AttemptHistory, Decision, RetryPolicy},
    telemetry::{
        metrics::StageMetrics,
        traces::{DeliverySpan, Tracer},
    },
};

/// If only some messages of an event are confirmed after this time, those are recorded.
const RECORD_AFTER: Duration = Duration::from_millis(250);

/// The part of a delivery that is needed to settle it, without its body.
#[derive(Debug)]
pub struct DeliveryContext {
    /// Settles the delivery.
    pub receipt: Receipt,
    /// The properties as received.
    pub properties: BasicProperties,
    /// The event's id in logs.
    pub event_id: String,
    /// The position in the event's trace.
    pub trace: TraceContext,
    /// End of the processing time; then the delivery is requeued.
    pub keep_until: Instant,
    /// The event's time, as far as it is known.
    pub happened_at: Timestamp,
    /// End of the session, if the message is valid; nothing is sent for it afterwards.
    pub deadline: Timestamp,
}

/// Everything that a [`Settler`] is made of.
#[derive(Debug)]
pub struct SettlerParts {
    pub publisher: Publisher,
    pub tracer: Tracer,
    pub topology: Topology,
    /// The queue of the deliveries.
    pub queue: String,
    /// Time limit for each reply of the broker.
    pub limit: Duration,
    pub retry: RetryPolicy,
    pub clock: Clock,
    pub metrics: StageMetrics,
}

/// Settles the deliveries of one queue.
#[derive(Clone, Debug)]
pub struct Settler {
    publisher: Publisher,
    tracer: Tracer,
    queue: String,
    topology: Topology,
    limit: Duration,
    retry: RetryPolicy,
    clock: Clock,
    metrics: StageMetrics,
}

/// The settlement of a delivery, for its log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The result.
    pub settled: Settled,
    /// The reason, in words; contains nothing private.
    pub reason: Option<String>,
    /// The delay of the copy in a delay queue.
    pub hold: Option<Duration>,
}

impl Settlement {
    fn of(settled: Settled, reason: impl Into<Option<String>>) -> Self {
        Self { settled, reason: reason.into(), hold: None }
    }
}

impl Settler {
    #[must_use]
    pub fn new(parts: SettlerParts) -> Self {
        let SettlerParts { publisher, tracer, topology, queue, limit, retry, clock, metrics } = parts;
        Self { publisher, tracer, queue, topology, limit, retry, clock, metrics }
    }

    /// The clock by which events expire.
    pub(super) const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The shortest delay of a delay queue.
    #[must_use]
    pub fn shortest_delay(&self) -> Duration {
        self.topology.delays().first().copied().unwrap_or_default()
    }

    /// Longer than any wait of a message for its next attempt.
    pub(super) fn longest_wait(&self, probe_max: Duration) -> Duration {
        retry::longest_wait(&self.retry, probe_max)
    }

    /// Sees when a missing queue or binding is redeclared, from now on.
    pub(super) fn redeclared(&self) -> Redeclared {
        self.topology.redeclared()
    }

    /// Starts the span of a delivery's processing by `stage`.
    pub(super) fn process(&self, stage: &'static str, event_id: &str, came: &TraceContext) -> DeliverySpan {
        self.tracer.process(&self.queue, stage, event_id, came)
    }

    /// Carries out `outcome`. For a failure, `verdict` decides if an attempt counts.
    pub async fn settle(
        &self,
        context: &DeliveryContext,
        message: &Message,
        outcome: Outcome,
        verdict: BreakerVerdict,
    ) -> Settlement {
        let now = self.clock.now();
        match outcome {
            // Nothing is published now, so nothing is measured.
            Outcome::DoneBefore(batch) if batch.outgoing.is_empty() => {
                self.ack(context, Settlement::of(Settled::Done, None)).await
            }
            Outcome::Done(batch) | Outcome::DoneBefore(batch) => {
                self.publish_batch(context, message, batch, now).await
            }
            Outcome::Dead(death) => self.dead(context, message, &death).await,
            Outcome::TryAgain(failure) | Outcome::Wait(failure) => {
                self.try_again(context, message, &failure, verdict, now).await
            }
            Outcome::Requeued => {
                let reason = "processing exceeded amqp.delivery_timeout";
                self.requeue(context, Settlement::of(Settled::Requeued, reason.to_owned())).await
            }
        }
    }

    /// Publishes the messages of `batch`, records which of them the broker confirmed, and settles the delivery.
    async fn publish_batch(
        &self,
        context: &DeliveryContext,
        message: &Message,
        Batch { outgoing, then }: Batch,
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
            self.metrics.delivered(Duration::try_from(took).unwrap_or_default());
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
                "failed to record published links in the ledger in time; if their event is delivered again, the same links are \
                 published again"
            );
        }
    }

    async fn try_again(
        &self,
        context: &DeliveryContext,
        message: &Message,
        failure: &Failure,
        verdict: BreakerVerdict,
        now: Timestamp,
    ) -> Settlement {
        let history = AttemptHistory { attempts: message.attempts(), waited: message.waited() };
        let deadline = context.deadline;
        let (decision, postponed_to) = match verdict {
            BreakerVerdict::Postponed(Postponed { wait, max }) => {
                let left = Duration::try_from(deadline.duration_since(now)).unwrap_or_default();
                let (wait, delay) =
                    retry::postponed_for(self.topology.delays(), wait, max, left).unwrap_or((wait, wait));
                let delay = Some(delay).filter(|_| failure.retry_after.is_none());
                (retry::postpone(failure, history, deadline, now, wait), delay)
            }
            BreakerVerdict::Unclear(times) => {
                let wait = retry::wait(&self.retry, times, fastrand::f64());
                let wait = retry::shortened(wait, self.retry.initial, deadline, now);
                (retry::postpone(failure, history, deadline, now, wait), None)
            }
            BreakerVerdict::Own => {
                (retry::decide(&self.retry, failure, history, deadline, now, fastrand::f64()), None)
            }
        };
        let (at, attempts, waited) = match decision {
            Decision::Again { at, attempts, waited } => (at, attempts, waited),
            Decision::GiveUp(death) => return self.dead(context, message, &death).await,
        };
        let first_failed_at = message.first_failed_at().unwrap_or(now);
        let retry_headers =
            RetryHeaders { cause: failure.cause, attempts, waited, first_failed_at, not_before: at };
        let Some(delay) =
            postponed_to.or_else(|| retry::delay_for(self.topology.delays(), now, at, deadline))
        else {
            return self.unfulfilled(context, "no delay queue is configured".to_owned()).await;
        };
        let settled = match verdict {
            BreakerVerdict::Postponed(_) => Settled::Wait(failure.cause),
            BreakerVerdict::Unclear(_) | BreakerVerdict::Own => Settled::TryAgain(failure.cause),
        };
        let copy = |queue: &str, trace: &TraceContext| {
            properties::delayed(&context.properties, message, queue, trace, &retry_headers)
        };
        self.delay(context, delay, copy, &message.body, Settlement::of(settled, failure.reason.clone())).await
    }

    /// Delays a message whose event must not be processed now, because of `reason`. No attempt
    /// counts.
    pub async fn busy(
        &self,
        context: &DeliveryContext,
        message: &Message,
        reason: &str,
        postponed: Postponed,
    ) -> Settlement {
        let failure = Failure { cause: Cause::Busy, reason: reason.to_owned(), retry_after: None };
        self.try_again(context, message, &failure, BreakerVerdict::Postponed(postponed), self.clock.now())
            .await
    }

    /// Delays a message that came back before its time; no attempt counts. The next longer delay queue would have
    /// missed its session's deadline, which is not known here. So the message never waits past its time.
    pub async fn delay_again(
        &self,
        context: &DeliveryContext,
        message: &Message,
        at: Timestamp,
    ) -> Settlement {
        let Some(delay) = retry::delay_for(self.topology.delays(), self.clock.now(), at, at) else {
            return self.unfulfilled(context, "no delay queue is configured".to_owned()).await;
        };
        let settlement = Settlement::of(Settled::Early, None);
        let copy = |queue: &str, trace: &TraceContext| {
            properties::delayed_again(&context.properties, message, queue, trace)
        };
        self.delay(context, delay, copy, &message.body, settlement).await
    }

    async fn delay(
        &self,
        context: &DeliveryContext,
        delay: Duration,
        properties: impl FnOnce(&str, &TraceContext) -> BasicProperties,
        body: &[u8],
        settlement: Settlement,
    ) -> Settlement {
        let copy = self.copy(context, Topology::delay_queue(&self.queue, delay), properties, body);
        match self.publish(context, vec![copy], |_| ()).await {
            Ok(()) => {
                if let Settled::TryAgain(cause) | Settled::Wait(cause) = settlement.settled {
                    self.metrics.retried(cause);
                }
                self.metrics.held(delay);
                self.ack(context, Settlement { hold: Some(delay), ..settlement }).await
            }
            Err(Unpublished { error, .. }) => {
                let reason = settlement.reason.unwrap_or_else(|| "not due yet".to_owned());
                self.unfulfilled(context, format!("{reason}; publishing to the delay queue failed: {error}"))
                    .await
            }
        }
    }

    async fn dead(&self, context: &DeliveryContext, message: &Message, death: &Death) -> Settlement {
        let properties = |_: &str, trace: &TraceContext| {
            properties::dead(&context.properties, message, death, trace, self.clock.now())
        };
        let letter = self.copy(context, Topology::dead_queue(&self.queue), properties, &message.body);
        match self.publish(context, vec![letter], |_| ()).await {
            Ok(()) => {
                self.metrics.dead(death.class);
                self.ack(context, Settlement::of(Settled::Dead(death.class), death.reason.clone())).await
            }
            Err(Unpublished { error, .. }) => {
                let (class, reason) = (death.class, &death.reason);
                self.unfulfilled(
                    context,
                    format!("{class}: {reason}; publishing the dead letter failed: {error}"),
                )
                .await
            }
        }
    }

    fn outgoing(&self, context: &DeliveryContext, outgoing: &Outgoing, now: Timestamp) -> Sending {
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
    fn copy(
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
    /// unroutable, the processing time is over or the delivery's channel is closed. Calls `confirmed` for each
    /// confirmed message at once.
    async fn publish(
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
            let publish = |(position, one): (usize, &Sending)| {
                let publish = self.publisher.publish(one.publication.clone());
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
                () = gone(&context.receipt, until) => true,
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
                fastrand::f64(),
            );
            if error == PublishError::Ended || Instant::now() + wait >= context.keep_until {
                return Err(Unpublished { error, keys });
            }
            sleep(wait).await;
        }
    }

    /// Time limit for the broker and the ledger. Some time is always left, because a queued message or record may
    /// still be written after its caller has given up.
    fn until(&self, context: &DeliveryContext) -> Instant {
        context.keep_until.max(Instant::now() + self.limit)
    }

    async fn ack(&self, context: &DeliveryContext, settlement: Settlement) -> Settlement {
        fault::point(&self.queue, "published");
        let acked = context.receipt.ack(self.limit).await;
        fault::point(&self.queue, "acked");
        written_or_lost(acked, settlement)
    }

    /// Requeues the delivery because its outcome could not be carried out, for `reason`.
    async fn unfulfilled(&self, context: &DeliveryContext, reason: String) -> Settlement {
        self.requeue(context, Settlement::of(Settled::Unfulfilled, reason)).await
    }

    async fn requeue(&self, context: &DeliveryContext, settlement: Settlement) -> Settlement {
        let returned = context.receipt.requeue_counted(self.limit).await;
        fault::point(&self.queue, "returned");
        written_or_lost(returned, settlement)
    }
}

fn written_or_lost(written: Result<bool, BrokerError>, settlement: Settlement) -> Settlement {
    let problem = match written {
        Ok(true) => return settlement,
        Ok(false) => "the channel is closed".to_owned(),
        Err(error) => error.to_string(),
    };
    let meant = settlement.settled.as_str();
    Settlement::of(Settled::Lost, format!("{problem}; intended outcome: {meant}"))
}

/// Resolves when the delivery's channel is closed, or at `until`.
async fn gone(receipt: &Receipt, until: Instant) {
    while receipt.usable() && Instant::now() < until {
        sleep(Duration::from_secs(1)).await;
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

/// A message being published, and its span.
struct Sending {
    publication: Publication,
    span: DeliverySpan,
    /// Message id and route, for a message of the stage.
    outgoing: Option<(Uuid, Route)>,
}

/// The error of a batch that is not known to be delivered, and the exchanges and routing keys without a queue.
struct Unpublished {
    error: PublishError,
    keys: String,
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

#[cfg(test)]
mod tests;
