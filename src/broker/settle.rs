//! Carries an outcome out: publishes what it names, with confirms, then settles the delivery. The one place where
//! deliveries are acknowledged.

use std::time::Duration;

use jiff::Timestamp;
use lapin::BasicProperties;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use super::{
    properties::{self, Held},
    publisher::{Publication, PublishError, Publisher},
    source::Receipt,
    topology::Topology,
};
use crate::{
    clock,
    contract::{link::Outgoing, message::Message, trace::TraceContext},
    fault,
    outcome::{Class, Death, Failure, Outcome},
    retry::{self, Decision, History, Policy},
};

/// What a delivery leaves behind when its body is taken out: what is needed to settle it.
#[derive(Debug)]
pub struct Ticket {
    /// Acknowledges.
    pub receipt: Receipt,
    /// As they came.
    pub properties: BasicProperties,
    /// What the event is called in logs.
    pub event_id: String,
    /// Its trace.
    pub trace: TraceContext,
    /// Until when it may be kept: after that it goes back to the broker.
    pub keep_until: Instant,
}

/// Settles the deliveries of one queue.
#[derive(Clone, Debug)]
pub struct Settler {
    publisher: Publisher,
    queue: String,
    links_exchange: String,
    limit: Duration,
    retry: Policy,
    delays: Vec<Duration>,
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Everything published, acknowledged.
    Done,
    /// In the dead queue, acknowledged.
    Dead(Class),
    /// A copy waits in a hold queue, acknowledged.
    Held,
    /// Given back to the broker.
    Returned,
    /// Its channel is gone: the broker delivers it again.
    Lost,
}

impl Settler {
    /// For deliveries of `queue`, tried again as `retry` says.
    #[must_use]
    pub fn new(
        publisher: Publisher,
        topology: &Topology,
        queue: String,
        limit: Duration,
        retry: Policy,
    ) -> Self {
        let delays = topology.delays().to_vec();
        Self { publisher, queue, links_exchange: topology.links_exchange(), limit, retry, delays }
    }

    /// The delay of the first hold queue.
    #[must_use]
    pub fn shortest_hold(&self) -> Duration {
        self.delays.first().copied().unwrap_or_default()
    }

    /// Carries `outcome` out. While the stage's breaker is open (`paused`), no attempt is counted.
    pub async fn settle(
        &self,
        ticket: &Ticket,
        message: &Message,
        outcome: Outcome,
        paused: bool,
    ) -> Settled {
        let now = clock::now();
        match outcome {
            Outcome::Done(outgoing) => {
                let publications = outgoing.iter().map(|outgoing| self.link(outgoing, now)).collect();
                // A publisher without a connection waits. What nobody waits for any more it does not publish.
                let publish = timeout(left(&outgoing, now), self.publish(ticket, publications));
                let Ok(published) = publish.await else {
                    let reason = "the session was over before its links could be published";
                    return self.dead(ticket, message, &Death::new(Class::Expired, reason)).await;
                };
                match published {
                    Ok(()) => self.ack(ticket, Settled::Done).await,
                    Err(Unpublished { error: PublishError::Unroutable, keys }) => {
                        let reason =
                            format!("no queue is bound to exchange {} for {keys}", self.links_exchange);
                        self.dead(ticket, message, &Death::new(Class::Unroutable, reason)).await
                    }
                    Err(Unpublished { error, .. }) => self.give_back(ticket, &error.to_string()).await,
                }
            }
            Outcome::Dead(death) => self.dead(ticket, message, &death).await,
            Outcome::TryAgain(failure) => self.try_again(ticket, message, &failure, paused, now).await,
            Outcome::Wait(failure) => self.try_again(ticket, message, &failure, true, now).await,
            Outcome::HandedBack => self.give_back(ticket, "the worker is shutting down").await,
        }
    }

    async fn try_again(
        &self,
        ticket: &Ticket,
        message: &Message,
        failure: &Failure,
        paused: bool,
        now: Timestamp,
    ) -> Settled {
        let history = History {
            attempts: message.attempts(),
            first_failed_at: message.first_failed_at().unwrap_or(now),
        };
        let decision = if paused {
            retry::postpone(failure, history, now, self.shortest_hold())
        } else {
            retry::decide(&self.retry, failure, history, now, fastrand::f64())
        };
        let (at, attempts) = match decision {
            Decision::Again { at, attempts } => (at, attempts),
            Decision::GiveUp(death) => return self.dead(ticket, message, &death).await,
        };
        let held =
            Held { cause: failure.cause, attempts, first_failed_at: history.first_failed_at, not_before: at };
        let Some(delay) = retry::rung(&self.delays, now, at, failure.deadline.timestamp()) else {
            return self.give_back(ticket, "no hold queue is configured").await;
        };
        info!(
            event_id = ticket.event_id,
            trace_id = ticket.trace.trace_id(),
            queue = self.queue,
            reason = failure.reason,
            attempts,
            hold_ms = delay.as_secs_f64() * 1e3,
            "trying again later"
        );
        self.hold(ticket, delay, properties::held(&ticket.properties, message, &held), &message.body).await
    }

    /// Holds a message that came back before its time, nothing counted. It came back early because the next longer hold
    /// would have missed its session's deadline, which is not known here: so it is never held past its time.
    pub async fn hold_again(&self, ticket: &Ticket, message: &Message, at: Timestamp) -> Settled {
        let Some(delay) = retry::rung(&self.delays, clock::now(), at, at) else {
            return self.give_back(ticket, "no hold queue is configured").await;
        };
        self.hold(ticket, delay, properties::held_again(&ticket.properties), &message.body).await
    }

    async fn hold(
        &self,
        ticket: &Ticket,
        delay: Duration,
        properties: BasicProperties,
        body: &[u8],
    ) -> Settled {
        let copy = Publication {
            exchange: String::new(),
            routing_key: Topology::hold_queue(&self.queue, delay),
            properties,
            body: body.into(),
        };
        match self.publish(ticket, vec![copy]).await {
            Ok(()) => self.ack(ticket, Settled::Held).await,
            Err(Unpublished { error, .. }) => {
                self.give_back(ticket, &format!("it could not be held back: {error}")).await
            }
        }
    }

    async fn dead(&self, ticket: &Ticket, message: &Message, death: &Death) -> Settled {
        let letter = Publication {
            exchange: String::new(),
            routing_key: Topology::dead_queue(&self.queue),
            properties: properties::dead(&ticket.properties, message, death, clock::now()),
            body: message.body.as_slice().into(),
        };
        match self.publish(ticket, vec![letter]).await {
            Ok(()) => {
                warn!(
                    event_id = ticket.event_id,
                    trace_id = ticket.trace.trace_id(),
                    queue = self.queue,
                    class = death.class.as_str(),
                    reason = death.reason,
                    "dead letter"
                );
                self.ack(ticket, Settled::Dead(death.class)).await
            }
            Err(Unpublished { error, .. }) => {
                error!(event_id = ticket.event_id, trace_id = ticket.trace.trace_id(), queue = self.queue, class = death.class.as_str(), %error, "no dead letter could be written; the message stays");
                self.give_back(ticket, "its dead letter could not be written").await
            }
        }
    }

    fn link(&self, outgoing: &Outgoing, now: Timestamp) -> Publication {
        Publication {
            exchange: self.links_exchange.clone(),
            routing_key: outgoing.routing_key.to_owned(),
            properties: properties::link(outgoing, now),
            body: outgoing.body.reveal().as_slice().into(),
        }
    }

    /// Publishes all, and what did not arrive again, until all are confirmed, one is unroutable, the delivery's time is
    /// up or its channel is gone.
    async fn publish(&self, ticket: &Ticket, mut publications: Vec<Publication>) -> Result<(), Unpublished> {
        let mut tries = 0;
        loop {
            // What this channel delivered is delivered again when it is gone: publishing now would repeat it.
            if !ticket.receipt.usable() {
                return Err(PublishError::Unknown.into());
            }
            // Never with no time left: what is queued may be published although nobody waits for it any more.
            let until = ticket.keep_until.max(Instant::now() + self.limit);
            let results = tokio::select! {
                biased;
                results = self.publisher.publish(publications.clone()) => results,
                () = gone(&ticket.receipt, until) => return Err(PublishError::Unknown.into()),
            };
            // A queue of our own that is missing is declared again by the publisher; a binding of the links is not ours.
            let ours = publications.iter().all(|publication| publication.exchange.is_empty());
            if !ours && results.contains(&Err(PublishError::Unroutable)) {
                return Err(Unpublished {
                    error: PublishError::Unroutable,
                    keys: unroutable(&publications, &results),
                });
            }
            let Some(error) = results.iter().find_map(|result| result.err()) else { return Ok(()) };
            let failed = publications.into_iter().zip(&results).filter(|(_, result)| result.is_err());
            publications = failed.map(|(publication, _)| publication).collect();
            tries += 1;
            let wait = retry::reconnect_wait(
                Duration::from_millis(50),
                Duration::from_secs(5),
                tries,
                fastrand::f64(),
            );
            if error == PublishError::Ended || Instant::now() + wait >= ticket.keep_until {
                return Err(error.into());
            }
            sleep(wait).await;
        }
    }

    async fn ack(&self, ticket: &Ticket, settled: Settled) -> Settled {
        fault::point(&self.queue, "published");
        let acked = ticket.receipt.ack(self.limit).await;
        fault::point(&self.queue, "acked");
        match acked {
            Ok(true) => settled,
            Ok(false) => self.lost(ticket, "its channel is closed"),
            Err(error) => self.lost(ticket, &error.to_string()),
        }
    }

    async fn give_back(&self, ticket: &Ticket, reason: &str) -> Settled {
        let returned = ticket.receipt.give_back(self.limit).await;
        fault::point(&self.queue, "returned");
        match returned {
            Ok(true) => {
                info!(
                    event_id = ticket.event_id,
                    trace_id = ticket.trace.trace_id(),
                    queue = self.queue,
                    reason,
                    "given back to the broker, nothing counted"
                );
                Settled::Returned
            }
            Ok(false) => self.lost(ticket, "its channel is closed"),
            Err(error) => self.lost(ticket, &error.to_string()),
        }
    }

    fn lost(&self, ticket: &Ticket, reason: &str) -> Settled {
        warn!(
            event_id = ticket.event_id,
            trace_id = ticket.trace.trace_id(),
            queue = self.queue,
            reason,
            "not settled; the broker will deliver it again"
        );
        Settled::Lost
    }
}

/// Resolves when the delivery's channel is gone, or at `until`.
async fn gone(receipt: &Receipt, until: Instant) {
    while receipt.usable() && Instant::now() < until {
        sleep(Duration::from_secs(1)).await;
    }
}

/// How long it is until the first of the sessions of `outgoing` is over; very long for nothing.
fn left(outgoing: &[Outgoing], now: Timestamp) -> Duration {
    let deadline = outgoing.iter().map(|outgoing| outgoing.deadline.timestamp()).min();
    Duration::try_from(deadline.unwrap_or(Timestamp::MAX).duration_since(now)).unwrap_or_default()
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
fn unroutable(publications: &[Publication], results: &[Result<(), PublishError>]) -> String {
    let returned =
        publications.iter().zip(results).filter(|(_, result)| **result == Err(PublishError::Unroutable));
    let mut keys: Vec<_> = returned.map(|(publication, _)| publication.routing_key.as_str()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.join(" or ")
}
