//! Carries an outcome out: publishes what it names, with confirms, then settles the delivery. The one place where
//! deliveries are acknowledged.

use std::{future::Future, pin::pin, time::Duration};

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
    properties::{self, RetryHeaders},
    publisher::{Publication, PublishError, Publisher},
    source::Receipt,
    topology::Topology,
};
use crate::{
    breaker::{BreakerVerdict, Postponed},
    clock,
    contract::{link::Outgoing, message::Message, private::loggable_id, time::WireTime, trace::TraceContext},
    fault,
    outcome::{Batch, Cause, Class, Death, Failure, Outcome, Settled, Then},
    retry::{self, AttemptHistory, Decision, RetryPolicy},
    telemetry::{
        metrics::StageMetrics,
        traces::{DeliverySpan, Tracer},
    },
};

/// How long some links of an event are confirmed and others are not before that is noted.
const NOTE_AFTER: Duration = Duration::from_millis(250);

/// What a delivery leaves behind when its body is taken out: what is needed to settle it.
#[derive(Debug)]
pub struct DeliveryContext {
    /// Acknowledges.
    pub receipt: Receipt,
    /// As they came.
    pub properties: BasicProperties,
    /// What the event is called in logs.
    pub event_id: String,
    /// Where the work on it stands in its trace.
    pub trace: TraceContext,
    /// Until when it may be kept: after that it goes back to the broker.
    pub keep_until: Instant,
    /// When what it tells of happened, as far as it is known.
    pub happened_at: Timestamp,
}

/// Settles the deliveries of one queue.
#[derive(Clone, Debug)]
pub struct Settler {
    publisher: Publisher,
    tracer: Tracer,
    queue: String,
    links_exchange: String,
    /// The queues of the links are declared by this program.
    declares: bool,
    limit: Duration,
    retry: RetryPolicy,
    delays: Vec<Duration>,
    metrics: StageMetrics,
    declared_again: watch::Receiver<u64>,
}

/// What became of a delivery, for its line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// How it ended.
    pub settled: Settled,
    /// Why, for a person; shows nothing private.
    pub reason: Option<String>,
    /// How long the copy in a hold queue waits.
    pub hold: Option<Duration>,
}

impl Settlement {
    fn of(settled: Settled, reason: impl Into<Option<String>>) -> Self {
        Self { settled, reason: reason.into(), hold: None }
    }
}

impl Settler {
    /// For deliveries of `queue`, tried again as `retry` says.
    #[must_use]
    pub fn new(
        publisher: Publisher,
        tracer: Tracer,
        topology: &Topology,
        queue: String,
        limit: Duration,
        retry: RetryPolicy,
        metrics: StageMetrics,
    ) -> Self {
        let delays = topology.delays().to_vec();
        let (links_exchange, declares) = (topology.links_exchange(), topology.creates());
        let declared_again = topology.declared_again();
        Self {
            publisher,
            tracer,
            queue,
            links_exchange,
            declares,
            limit,
            retry,
            delays,
            metrics,
            declared_again,
        }
    }

    /// The delay of the first hold queue.
    #[must_use]
    pub fn shortest_hold(&self) -> Duration {
        self.delays.first().copied().unwrap_or_default()
    }

    /// Longer than any message is to wait for its next attempt.
    pub(super) fn longest_wait(&self) -> Duration {
        retry::longest_wait(&self.retry)
    }

    /// Changes when a queue of ours that was missing is declared again, from now on.
    pub(super) fn declared_again(&self) -> watch::Receiver<u64> {
        let mut declared_again = self.declared_again.clone();
        declared_again.mark_unchanged();
        declared_again
    }

    /// The span of the work on a delivery for the stage called `stage`.
    pub(super) fn process(&self, stage: &'static str, event_id: &str, came: &TraceContext) -> DeliverySpan {
        self.tracer.process(&self.queue, stage, event_id, came)
    }

    /// Carries `outcome` out; of a failure, as the breaker's `verdict` says.
    pub async fn settle(
        &self,
        ticket: &DeliveryContext,
        message: &Message,
        outcome: Outcome,
        verdict: BreakerVerdict,
    ) -> Settlement {
        let now = clock::now();
        match outcome {
            // Nothing happens now, so nothing is measured.
            Outcome::DoneBefore(batch) if batch.outgoing.is_empty() => {
                self.ack(ticket, Settlement::of(Settled::Done, None)).await
            }
            Outcome::Done(batch) | Outcome::DoneBefore(batch) => {
                self.publish_links(ticket, message, batch, now).await
            }
            Outcome::Dead(death) => self.dead(ticket, message, &death).await,
            Outcome::TryAgain(failure) | Outcome::Wait(failure) => {
                self.try_again(ticket, message, &failure, verdict, now).await
            }
            Outcome::Requeued => {
                let reason = "no outcome within amqp.delivery_timeout";
                self.requeue(ticket, Settlement::of(Settled::Requeued, reason.to_owned())).await
            }
        }
    }

    /// Publishes the links of `batch`, has recorded which of them the broker confirmed, and settles.
    async fn publish_links(
        &self,
        ticket: &DeliveryContext,
        message: &Message,
        Batch { outgoing, then }: Batch,
        now: Timestamp,
    ) -> Settlement {
        let left = left(&outgoing, now);
        let (links, (tell, confirmed)) = (&outgoing, watch::channel(Vec::new()));
        let publish = pin!(async move {
            // A publisher without a connection waits. What nobody waits for any more it does not publish. With no time
            // left it is not asked at all: it may be faster than the end of the wait.
            if left.is_zero() {
                return None;
            }
            let sending = links.iter().map(|link| self.link(ticket, link, now)).collect();
            let confirmed = |one: &Sending| tell.send_modify(|confirmed| confirmed.extend(one.link));
            timeout(left, self.publish(ticket, sending, confirmed)).await.ok()
        });
        let recording = pin!(record(then, confirmed));
        let (published, recording) = match select(publish, recording).await {
            Either::Left((published, recording)) => (published, Some(recording)),
            Either::Right(((), publish)) => (publish.await, None),
        };
        let recorded = self.recorded(ticket, recording);
        let Some(published) = published else {
            recorded.await;
            let reason = "the links had ended before they could be published";
            return self.dead(ticket, message, &Death::new(Class::Expired, reason)).await;
        };
        let Err(Unpublished { error, keys }) = published else {
            for outgoing in &outgoing {
                self.metrics.linked(outgoing.recipient);
            }
            self.metrics.delivered(ticket.happened_at);
            let ack = self.ack(ticket, Settlement::of(Settled::Done, None));
            // The record is on its way before the ack: after it nobody would publish these again by mistake.
            return tokio::join!(recorded, ack).1;
        };
        // Those that arrived must not be published again with the others.
        recorded.await;
        if error == PublishError::Unroutable {
            let reason = format!("no queue is bound to exchange {} for {keys}", self.links_exchange);
            self.dead(ticket, message, &Death::new(Class::Unroutable, reason)).await
        } else {
            self.unfulfilled(ticket, error.to_string()).await
        }
    }

    /// Waits until it is recorded which links the broker confirmed, while the delivery may be kept.
    async fn recorded(&self, ticket: &DeliveryContext, recording: Option<impl Future<Output = ()>>) {
        if timeout_at(self.until(ticket), OptionFuture::from(recording)).await.is_err() {
            let (event_id, trace_id) = (&ticket.event_id, ticket.trace.trace_id());
            warn!(
                event_id,
                trace_id,
                "the ledger did not record within amqp.delivery_timeout which links are published; a repeat of the event publishes them again"
            );
        }
    }

    async fn try_again(
        &self,
        ticket: &DeliveryContext,
        message: &Message,
        failure: &Failure,
        verdict: BreakerVerdict,
        now: Timestamp,
    ) -> Settlement {
        let history = AttemptHistory { attempts: message.attempts(), waited: message.waited() };
        let deadline = failure.deadline.timestamp();
        let (decision, postponed_to) = match verdict {
            BreakerVerdict::Postponed(Postponed { wait, max }) => {
                let left = Duration::try_from(deadline.duration_since(now)).unwrap_or_default();
                let (wait, delay) =
                    retry::postponed_for(&self.delays, wait, max, left).unwrap_or((wait, wait));
                let delay = Some(delay).filter(|_| failure.retry_after.is_none());
                (retry::postpone(failure, history, now, wait), delay)
            }
            BreakerVerdict::Unclear(times) => {
                let wait = retry::wait(&self.retry, times, fastrand::f64());
                let wait = retry::shortened(wait, self.retry.initial, failure, now);
                (retry::postpone(failure, history, now, wait), None)
            }
            BreakerVerdict::Own => (retry::decide(&self.retry, failure, history, now, fastrand::f64()), None),
        };
        let (at, attempts, waited) = match decision {
            Decision::Again { at, attempts, waited } => (at, attempts, waited),
            Decision::GiveUp(death) => return self.dead(ticket, message, &death).await,
        };
        let first_failed_at = message.first_failed_at().unwrap_or(now);
        let held = RetryHeaders { cause: failure.cause, attempts, waited, first_failed_at, not_before: at };
        let Some(delay) = postponed_to.or_else(|| retry::rung(&self.delays, now, at, deadline)) else {
            return self.unfulfilled(ticket, "no hold queue is configured".to_owned()).await;
        };
        let settled = match verdict {
            BreakerVerdict::Postponed(_) => Settled::Wait(failure.cause),
            BreakerVerdict::Unclear(_) | BreakerVerdict::Own => Settled::TryAgain(failure.cause),
        };
        let copy = |queue: &str, trace: &TraceContext| {
            properties::held(&ticket.properties, message, queue, trace, &held)
        };
        self.hold(ticket, delay, copy, &message.body, Settlement::of(settled, failure.reason.clone())).await
    }

    /// Holds a message whose session is over at `deadline`, and whose event is not to be worked on now, because of `reason`.
    /// Nothing is counted.
    pub async fn busy(
        &self,
        ticket: &DeliveryContext,
        message: &Message,
        deadline: WireTime,
        reason: &str,
        postponed: Postponed,
    ) -> Settlement {
        let failure = Failure { cause: Cause::Busy, reason: reason.to_owned(), retry_after: None, deadline };
        self.try_again(ticket, message, &failure, BreakerVerdict::Postponed(postponed), clock::now()).await
    }

    /// Holds a message that came back before its time, nothing counted. It came back early because the next longer hold
    /// would have missed its session's deadline, which is not known here: so it is never held past its time.
    pub async fn hold_again(&self, ticket: &DeliveryContext, message: &Message, at: Timestamp) -> Settlement {
        let Some(delay) = retry::rung(&self.delays, clock::now(), at, at) else {
            return self.unfulfilled(ticket, "no hold queue is configured".to_owned()).await;
        };
        let settlement = Settlement::of(Settled::Early, None);
        let copy = |queue: &str, trace: &TraceContext| {
            properties::held_again(&ticket.properties, message, queue, trace)
        };
        self.hold(ticket, delay, copy, &message.body, settlement).await
    }

    async fn hold(
        &self,
        ticket: &DeliveryContext,
        delay: Duration,
        properties: impl FnOnce(&str, &TraceContext) -> BasicProperties,
        body: &[u8],
        settlement: Settlement,
    ) -> Settlement {
        let copy = self.copy(ticket, Topology::hold_queue(&self.queue, delay), properties, body);
        match self.publish(ticket, vec![copy], |_| ()).await {
            Ok(()) => {
                if let Settled::TryAgain(cause) | Settled::Wait(cause) = settlement.settled {
                    self.metrics.retried(cause);
                }
                self.metrics.held(delay);
                self.ack(ticket, Settlement { hold: Some(delay), ..settlement }).await
            }
            Err(Unpublished { error, .. }) => {
                let reason = settlement.reason.unwrap_or_else(|| "too early".to_owned());
                self.unfulfilled(ticket, format!("{reason}; it could not be held back: {error}")).await
            }
        }
    }

    async fn dead(&self, ticket: &DeliveryContext, message: &Message, death: &Death) -> Settlement {
        let properties = |_: &str, trace: &TraceContext| {
            properties::dead(&ticket.properties, message, death, trace, clock::now())
        };
        let letter = self.copy(ticket, Topology::dead_queue(&self.queue), properties, &message.body);
        match self.publish(ticket, vec![letter], |_| ()).await {
            Ok(()) => {
                self.metrics.dead(death.class);
                self.ack(ticket, Settlement::of(Settled::Dead(death.class), death.reason.clone())).await
            }
            Err(Unpublished { error, .. }) => {
                let (class, reason) = (death.class, &death.reason);
                self.unfulfilled(
                    ticket,
                    format!("{class}: {reason}; its dead letter could not be written: {error}"),
                )
                .await
            }
        }
    }

    fn link(&self, ticket: &DeliveryContext, outgoing: &Outgoing, now: Timestamp) -> Sending {
        let (exchange, routing_key) =
            (self.links_exchange.clone(), outgoing.recipient.routing_key().to_owned());
        let message_id = outgoing.message_id.to_string();
        let span = self.tracer.publish(&exchange, &routing_key, Some(&message_id), &ticket.trace);
        let properties = properties::link(outgoing, span.context(), now);
        let body = outgoing.body.reveal().as_slice().into();
        let publication = Publication { exchange, routing_key, properties, body };
        Sending { publication, span, link: Some(outgoing.message_id) }
    }

    /// A copy of the delivery for `queue`, one of our own.
    fn copy(
        &self,
        ticket: &DeliveryContext,
        queue: String,
        properties: impl FnOnce(&str, &TraceContext) -> BasicProperties,
        body: &[u8],
    ) -> Sending {
        let message_id = ticket.properties.message_id().as_ref().map(|id| loggable_id(id.as_str()));
        let span = self.tracer.publish("", &queue, message_id.as_deref(), &ticket.trace);
        let properties = properties(&queue, span.context());
        let publication =
            Publication { exchange: String::new(), routing_key: queue, properties, body: body.into() };
        Sending { publication, span, link: None }
    }

    /// Publishes all, and what did not arrive again, until all are confirmed, one is unroutable, the delivery's time is
    /// up or its channel is gone. Tells `confirmed` of each that arrived, at once.
    async fn publish(
        &self,
        ticket: &DeliveryContext,
        mut sending: Vec<Sending>,
        confirmed: impl FnMut(&Sending),
    ) -> Result<(), Unpublished> {
        let result = self.publish_all(ticket, &mut sending, confirmed).await;
        if let Err(Unpublished { error, .. }) = &result {
            for one in &mut sending {
                one.span.fail(error.as_str(), &error.to_string());
            }
        }
        result
    }

    async fn publish_all(
        &self,
        ticket: &DeliveryContext,
        sending: &mut Vec<Sending>,
        mut confirmed: impl FnMut(&Sending),
    ) -> Result<(), Unpublished> {
        let (mut tries, mut declared_again) = (0, !self.declares);
        loop {
            // What this channel delivered is delivered again when it is gone: publishing now would repeat it.
            if !ticket.receipt.usable() {
                return Err(PublishError::Unknown.into());
            }
            let until = self.until(ticket);
            // A queue of our own that is missing is declared again by the publisher, and so are those of the links where they are
            // ours. Whoever tries again finds it; of a link that is returned then, nobody wants to know.
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
                () = gone(&ticket.receipt, until) => true,
            };
            let keys = unroutable(sending, &results);
            let mut failed = results.iter().map(Result::is_err);
            sending.retain(|_| failed.next().unwrap_or(true));
            if ended {
                return Err(PublishError::Unknown.into());
            }
            if !ours && !keys.is_empty() && std::mem::replace(&mut declared_again, true) {
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
            if error == PublishError::Ended || Instant::now() + wait >= ticket.keep_until {
                return Err(Unpublished { error, keys });
            }
            sleep(wait).await;
        }
    }

    /// How long the broker and the ledger are waited for. Never with no time left: what is queued may be published, or recorded,
    /// although nobody waits for it any more.
    fn until(&self, ticket: &DeliveryContext) -> Instant {
        ticket.keep_until.max(Instant::now() + self.limit)
    }

    async fn ack(&self, ticket: &DeliveryContext, settlement: Settlement) -> Settlement {
        fault::point(&self.queue, "published");
        let acked = ticket.receipt.ack(self.limit).await;
        fault::point(&self.queue, "acked");
        written_or_lost(acked, settlement)
    }

    /// What the outcome asks for could not be done, because of `reason`.
    async fn unfulfilled(&self, ticket: &DeliveryContext, reason: String) -> Settlement {
        self.requeue(ticket, Settlement::of(Settled::Unfulfilled, reason)).await
    }

    async fn requeue(&self, ticket: &DeliveryContext, settlement: Settlement) -> Settlement {
        let returned = ticket.receipt.requeue_counted(self.limit).await;
        fault::point(&self.queue, "returned");
        written_or_lost(returned, settlement)
    }
}

fn written_or_lost(written: Result<bool, BrokerError>, settlement: Settlement) -> Settlement {
    let problem = match written {
        Ok(true) => return settlement,
        Ok(false) => "its channel is closed".to_owned(),
        Err(error) => error.to_string(),
    };
    let meant = settlement.settled.as_str();
    Settlement::of(Settled::Lost, format!("{problem}; it would have been: {meant}"))
}

/// Resolves when the delivery's channel is gone, or at `until`.
async fn gone(receipt: &Receipt, until: Instant) {
    while receipt.usable() && Instant::now() < until {
        sleep(Duration::from_secs(1)).await;
    }
}

/// Has recorded which links are confirmed, until no more can be. Where others are not, that is noted first: the next worker
/// publishes no link again that this one published long before it ended.
async fn record(mut then: Then, mut confirmed: watch::Receiver<Vec<Uuid>>) {
    while confirmed.changed().await.is_ok() {
        let all = async { while confirmed.changed().await.is_ok() {} };
        _ = timeout(NOTE_AFTER, all).await;
        let confirmed = confirmed.borrow_and_update().clone();
        then.confirmed(confirmed).await;
    }
}

/// How long it is until the first of the sessions of `outgoing` is over; very long for nothing.
fn left(outgoing: &[Outgoing], now: Timestamp) -> Duration {
    let deadline = outgoing.iter().map(|outgoing| outgoing.deadline.timestamp()).min();
    Duration::try_from(deadline.unwrap_or(Timestamp::MAX).duration_since(now)).unwrap_or_default()
}

/// A message on its way out, and the time it takes.
struct Sending {
    publication: Publication,
    span: DeliverySpan,
    /// The id of a link's message.
    link: Option<Uuid>,
}

/// Why a batch is not known to be delivered, and for which routing keys no queue is bound.
struct Unpublished {
    error: PublishError,
    keys: String,
}

impl From<PublishError> for Unpublished {
    fn from(error: PublishError) -> Self {
        Self { error, keys: String::new() }
    }
}

/// The routing keys of what was returned, each once.
fn unroutable(sending: &[Sending], results: &[Result<(), PublishError>]) -> String {
    let returned =
        sending.iter().zip(results).filter(|(_, result)| **result == Err(PublishError::Unroutable));
    let mut keys: Vec<_> = returned.map(|(one, _)| one.publication.routing_key.as_str()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.join(" or ")
}

#[cfg(test)]
mod tests;
