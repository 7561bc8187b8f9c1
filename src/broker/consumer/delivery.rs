//! The path of one delivery: its try, the policies that defer it, its stage, its settlement.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::FutureExt;
use jiff::Timestamp;
use lapin::BasicProperties;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::{Instrument, warn};

use super::Consumer;
use crate::{
    breaker::{BreakerVerdict, EventKey, Postponed},
    broker::{
        delivery_log::DeliveryLog,
        headers::Taken,
        properties,
        settle::{DeliveryContext, Settlement},
        source::{Delivery, Receipt},
    },
    clock,
    contract::{
        message::Message,
        private::loggable_id,
        start_session::{self, Identity},
        time::WireTime,
    },
    fault,
    outcome::{Class, Death, Outcome, Settled},
    stages::{self, Stage},
};

/// The wait of a message while another delivery of its event is being processed.
const BUSY: Postponed = Postponed { wait: Duration::from_secs(1), max: Duration::from_secs(5) };

/// A delivery in progress.
struct DeliveryWork {
    message: Message,
    properties: BasicProperties,
    receipt: Receipt,
    begun: Instant,
    /// The number of workers that died while processing it, if the message must be dead-lettered for that.
    deaths: Option<u32>,
}

impl<S: Stage> Consumer<S> {
    pub(super) async fn work(self: Arc<Self>, permit: OwnedSemaphorePermit, delivery: Delivery) {
        let _in_progress = self.state.begin();
        let (work, receipt) = (self.metrics.begin(), delivery.receipt.clone());
        let begun = Instant::now();
        let Delivery { body, properties, redelivered, receipt: _ } = delivery;
        let taken = Taken::Work { queue: &self.queue, redelivered };
        let message = properties::message(&properties, body, taken);
        // A redelivered message was counted at its first delivery.
        if let Some(delay) = properties::delayed_for(&properties, &self.queue).filter(|_| !redelivered) {
            self.metrics.returned(delay);
        }
        let ready = async {
            let trial = self.trial(&message).await;
            let bytes = if trial.deaths.is_some() { message.body.len() } else { self.stage.bytes(&message) };
            (trial, self.budget.take(bytes).await)
        };
        let Ok((trial, bytes)) = timeout_at(begun + self.limits.delivery_timeout, ready).await else {
            // Other deliveries used up all the time of this one.
            _ = receipt.requeue_counted(self.limits.timeout).await;
            return;
        };
        let work_on =
            DeliveryWork { message, properties, receipt: receipt.clone(), begun, deaths: trial.deaths };
        let settle = AssertUnwindSafe(self.settle(work_on)).catch_unwind();
        let settled = timeout(self.limits.work_age_max(), settle).await;
        if settled.is_err() {
            self.metrics.overdue();
        }
        let settled = match settled {
            Ok(Ok(settled)) => Ok(settled),
            Ok(Err(_panic)) => Err(true),
            Err(_overdue) => Err(false),
        };
        trial.end(&self.tries, settled).await;
        if let Ok(settled) = settled {
            work.ended(settled.into());
        } else {
            // A defect outside the stage, or work that never ends. The message stays queued; the count of its tries
            // limits the repeats.
            _ = receipt.requeue_counted(self.limits.timeout).await;
            drop(work);
        }
        drop((permit, bytes));
    }

    async fn settle(&self, work: DeliveryWork) -> Settled {
        let DeliveryWork { mut message, properties, receipt, begun, deaths } = work;
        let keep_until = begun + self.limits.delivery_timeout;
        let identity = if deaths.is_none() {
            fault::point(&self.queue, "taken");
            self.stage.identify(&message)
        } else {
            // The body may be the reason why workers die, so it is not parsed.
            start_session::named(&message)
        };
        let effect = EventKey::of(&self.stage.effect(&message, &identity));
        let Identity { event_id, trace, occurred_at } = identity;
        let event_id = loggable_id(event_id.as_str()).into_owned();
        let span = self.settler.process(S::NAME, &event_id, &trace);
        let trace = span.context().clone();
        // The stage's messages belong to this span, and so does the copy for the next attempt or the dead letter.
        trace.write(&mut message.headers);
        // The first death of a replayed letter counted as late.
        let happened_at = (message.replayed_at().or(occurred_at))
            .or_else(|| message.first_failed_at())
            .unwrap_or_else(clock::now);
        let context = DeliveryContext { receipt, properties, event_id, trace, keep_until, happened_at };
        let log = DeliveryLog::begin(S::NAME, &context, message.attempts(), begun, span);
        let fields = log.fields();
        let settlement = self.settlement(&context, &message, effect, deaths).instrument(fields).await;
        log.settled(&settlement);
        if settlement.settled != Settled::Lost {
            self.settled.fetch_add(1, Ordering::Relaxed);
        }
        settlement.settled
    }

    /// Decides about a message and carries the decision out.
    async fn settlement(
        &self,
        context: &DeliveryContext,
        message: &Message,
        effect: EventKey,
        deaths: Option<u32>,
    ) -> Settlement {
        if let Some(deaths) = deaths {
            let before = self.limits.isolate_from();
            let reason = format!(
                "{deaths} workers died while processing this message, after {before} deliveries without an outcome"
            );
            let poison = Outcome::Dead(Death::new(Class::Poison, reason));
            return self.settler.settle(context, message, poison, BreakerVerdict::Own).await;
        }
        if let Some(at) = self.not_due_until(message).await {
            return self.settler.delay_again(context, message, at).await;
        }
        let worked = self.working.begin(effect);
        match self.must_wait(message, effect, worked.is_some()) {
            Some((deadline, reason, postponed)) => {
                self.settler.busy(context, message, deadline, reason, postponed).await
            }
            None => self.process(context, message, effect).await,
        }
    }

    /// The deadline, reason and wait of a message that must wait for another message with the same effect. `alone` is
    /// true if no other delivery is processing this effect.
    fn must_wait(
        &self,
        message: &Message,
        effect: EventKey,
        alone: bool,
    ) -> Option<(WireTime, &'static str, Postponed)> {
        if alone {
            let (deadline, postponed) = self.waits(message, effect)?;
            return Some((deadline, "the same event failed a moment ago", postponed));
        }
        Some((self.stage.deadline(message).ok()?, "the same event is being processed", BUSY))
    }

    /// The deadline and wait of a message whose event failed a moment ago. A wait that would outlast the session is
    /// skipped, which leaves time for a last attempt.
    pub(super) fn waits(&self, message: &Message, effect: EventKey) -> Option<(WireTime, Postponed)> {
        let postponed = self.breaker.waits(effect)?;
        let deadline = self.stage.deadline(message).ok()?;
        let left = Duration::try_from(deadline.timestamp().duration_since(clock::now())).unwrap_or_default();
        (postponed.wait < left).then_some((deadline, postponed))
    }

    /// Runs the stage on a message and settles the delivery.
    async fn process(&self, context: &DeliveryContext, message: &Message, effect: EventKey) -> Settlement {
        let begun = Instant::now();
        let outcome = timeout_at(context.keep_until, stages::run(&self.stage, message)).await;
        let outcome = outcome.unwrap_or_else(|_| self.overdue(effect));
        fault::point(&self.queue, "decided");
        let verdict = self.breaker.observe(effect, begun, &outcome);
        self.settler.settle(context, message, outcome, verdict).await
    }

    /// The time of the next attempt, if it is too far ahead to wait for it here.
    async fn not_due_until(&self, message: &Message) -> Option<Timestamp> {
        let at = message.not_before()?;
        let wait = Duration::try_from(at.duration_since(clock::now())).unwrap_or_default();
        // Longer than any delay we set: clock skew, or another producer wrote the header.
        if wait > self.settler.longest_wait() {
            return None;
        }
        if wait > self.settler.shortest_delay() {
            return Some(at);
        }
        sleep(wait).await;
        None
    }

    /// The outcome of a delivery that exceeded its processing time.
    fn overdue(&self, effect: EventKey) -> Outcome {
        self.metrics.overdue();
        self.breaker.overdue(effect);
        warn!("processing exceeded amqp.delivery_timeout; returning the delivery");
        Outcome::Requeued
    }
}
