//! Carries out an outcome: publishes its messages with confirms, then settles the delivery. Deliveries are
//! acknowledged only here.

mod batch;
mod publish;
mod try_again;

use std::time::Duration;

use jiff::Timestamp;
use lapin::BasicProperties;
use tokio::time::Instant;

use self::publish::Unpublished;
use super::{
    connection::BrokerError,
    port::Receipt,
    properties,
    publisher::Publisher,
    topology::{Redeclared, Topology},
};
use crate::{
    breaker::BreakerVerdict,
    clock::Clock,
    contract::{message::Message, trace::TraceContext},
    fault,
    outcome::{Death, Outcome, Settled},
    random::Random,
    retry::{self, RetryPolicy},
    telemetry::{
        metrics::StageMetrics,
        traces::{DeliverySpan, Tracer},
    },
};

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

/// Settles the deliveries of one queue.
#[derive(Clone, Debug)]
pub struct Settler {
    pub publisher: Publisher,
    pub tracer: Tracer,
    pub topology: Topology,
    /// The queue of the deliveries.
    pub queue: String,
    /// Time limit for each reply of the broker.
    pub limit: Duration,
    pub retry: RetryPolicy,
    /// The clock by which events expire.
    pub clock: Clock,
    /// Spreads waits, and makes the ids of new traces.
    pub random: Random,
    pub metrics: StageMetrics,
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

#[cfg(test)]
mod tests;
