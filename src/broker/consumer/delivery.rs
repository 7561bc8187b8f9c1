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
        port::{Delivery, Receipt},
        properties,
        settle::{DeliveryContext, Settlement},
    },
    contract::{
        identity::Identity, message::Message, private::loggable_id, time::WireTime, trace::TraceContext,
    },
    fault,
    outcome::{Class, Death, Outcome, Settled},
    stages::{self, AcceptedJob, JobContext, SESSION_OVER, Stage},
};

/// The wait of a message while another delivery of its event is being processed.
const BUSY: Postponed = Postponed { wait: Duration::from_secs(1), max: Duration::from_secs(5) };

/// A message that needs at most this many bytes is read only when the budget has them. The bound of a larger message may
/// be far above its need, so it is read first.
const SMALL: usize = 256 * 1024;

/// A delivery in progress.
struct DeliveryWork {
    message: Message,
    properties: BasicProperties,
    receipt: Receipt,
    begun: Instant,
    /// The number of workers that died while processing it, if the message must be dead-lettered for that.
    deaths: Option<u32>,
}

/// The content of a message.
enum Content<J> {
    /// Not parsed, because this many workers crashed while processing the message.
    Poison(u32),
    /// The effect that the message requests, and its job.
    Known(String, Result<AcceptedJob<J>, Death>),
}

impl<S: Stage> Consumer<S> {
    pub(super) async fn work(self: Arc<Self>, permit: OwnedSemaphorePermit, delivery: Delivery) {
        let _in_progress = self.state.begin();
        let (work, receipt) = (self.metrics.begin(), delivery.receipt.clone());
        let begun = Instant::now();
        let Delivery { body, properties, redelivered, receipt: _ } = delivery;
        let taken = Taken::Work { queue: &self.queue, redelivered };
        let message = properties::message(&properties, body, taken);
        self.count_return(&properties, redelivered);
        let Ok(trial) = timeout_at(begun + self.limits.delivery_timeout, self.trial(&message)).await else {
            return self.requeue_unread(&message, &receipt, begun).await;
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
        drop(permit);
    }

    async fn settle(&self, work: DeliveryWork) -> Settled {
        let DeliveryWork { message, properties, receipt, begun, deaths } = work;
        let keep_until = begun + self.limits.delivery_timeout;
        let Ok((identity, work, _bytes)) = timeout_at(keep_until, self.read(&message, deaths)).await else {
            self.requeue_unread(&message, &receipt, begun).await;
            return Settled::Requeued;
        };
        let Identity { event_id, trace, occurred_at } = identity;
        let trace = trace.unwrap_or_else(|| TraceContext::begin(self.random()));
        let event_id = loggable_id(event_id.as_str()).into_owned();
        let span = self.settler.process(S::DEF.name, &event_id, &trace);
        // The stage's messages belong to this span, and so does the copy for the next attempt or the dead letter.
        let trace = span.context().clone();
        // The first death of a replayed letter counted as late.
        let happened_at = (message.replayed_at().or(occurred_at))
            .or_else(|| message.first_failed_at())
            .unwrap_or_else(|| self.clock().now());
        let deadline = Timestamp::MAX;
        let context =
            DeliveryContext { receipt, properties, event_id, trace, keep_until, happened_at, deadline };
        let log = DeliveryLog::begin(S::DEF.name, &context, message.attempts(), begun, span);
        let fields = log.fields();
        let settlement = self.settlement(context, &message, work).instrument(fields).await;
        log.settled(&settlement);
        if settlement.settled != Settled::Lost {
            self.settled.fetch_add(1, Ordering::Relaxed);
        }
        settlement.settled
    }

    /// Counts the return of a message from a delay queue. A redelivered message was counted at its first delivery.
    pub(super) fn count_return(&self, properties: &BasicProperties, redelivered: bool) {
        if let Some(delay) = properties::delayed_for(properties, &self.queue).filter(|_| !redelivered) {
            self.metrics.returned(delay);
        }
    }

    /// Requeues a delivery that was not read in time, because other deliveries used up all its time.
    async fn requeue_unread(&self, message: &Message, receipt: &Receipt, begun: Instant) {
        let Identity { event_id, trace, .. } = Identity::without_body(message);
        self.metrics.overdue();
        warn!(
            event_id = %loggable_id(event_id.as_str()),
            // A trace in the body is not known yet.
            trace_id = trace.map(|trace| trace.trace_id()),
            stage = S::DEF.name,
            attempt = message.attempts().saturating_add(1),
            outcome = Settled::Requeued.as_str(),
            duration_ms = begun.elapsed().as_secs_f64() * 1e3,
            reason = "other deliveries used up the processing time of this delivery",
            "requeued; attempt not counted"
        );
        _ = receipt.requeue_counted(self.limits.timeout).await;
    }

    /// Reads a message and takes the memory that its processing needs.
    async fn read(
        &self,
        message: &Message,
        deaths: Option<u32>,
    ) -> (Identity, Content<S::Job>, Option<OwnedSemaphorePermit>) {
        if let Some(deaths) = deaths {
            // The body may be the reason why workers die, so it is not parsed.
            let bytes = self.budget.take(message.body.len()).await;
            return (Identity::without_body(message), Content::Poison(deaths), bytes);
        }
        fault::point(&self.queue, "taken");
        let bytes_max = self.stage.bytes_max(message);
        let (read, bytes) = if bytes_max <= SMALL {
            let bytes = self.budget.take(bytes_max).await;
            (stages::read(&self.stage, message), bytes)
        } else {
            // One at a time, because such a message is parsed before its bytes are taken.
            let _turn = self.reading.lock().await;
            let read = stages::read(&self.stage, message);
            let bytes = self.budget.take(read.bytes).await;
            (read, bytes)
        };
        (read.identity, Content::Known(read.effect, read.job), bytes)
    }

    /// Decides about a message and carries the decision out.
    async fn settlement(
        &self,
        context: DeliveryContext,
        message: &Message,
        work: Content<S::Job>,
    ) -> Settlement {
        let (effect, job) = match work {
            Content::Poison(deaths) => {
                let before = self.limits.isolate_from();
                let reason = format!(
                    "{deaths} workers crashed while processing this message, after {before} deliveries without an outcome"
                );
                let poison = Outcome::Dead(Death::new(Class::Poison, reason));
                return self.settler.settle(&context, message, poison, BreakerVerdict::Own).await;
            }
            Content::Known(effect, job) => (effect, job),
        };
        if let Some(at) = self.not_due_until(message).await {
            return self.settler.delay_again(&context, message, at).await;
        }
        let event = EventKey::of(&effect);
        let worked = self.working.begin(event);
        match job.and_then(|job| in_time(job, self.clock().now())) {
            Ok(job) => {
                let context = DeliveryContext { deadline: job.deadline.timestamp(), ..context };
                match self.must_wait(event, job.deadline, worked.is_some()) {
                    Some((reason, postponed)) => {
                        self.settler.busy(&context, message, reason, postponed).await
                    }
                    None => self.process(context, message, effect, job).await,
                }
            }
            Err(death) => {
                let outcome = Outcome::Dead(death);
                self.carry_out(&context, message, event, Instant::now(), outcome).await
            }
        }
    }

    /// The reason and wait of a message that must wait for another message with the same effect. `alone` is true if no
    /// other delivery is processing this effect.
    fn must_wait(
        &self,
        event: EventKey,
        deadline: WireTime,
        alone: bool,
    ) -> Option<(&'static str, Postponed)> {
        if alone {
            let postponed = self.waits(event, deadline)?;
            return Some(("the same event failed a moment ago", postponed));
        }
        Some(("the same event is being processed", BUSY))
    }

    /// The wait of a message whose event failed a moment ago. A wait that would outlast the session is skipped, which
    /// leaves time for a last attempt.
    pub(super) fn waits(&self, event: EventKey, deadline: WireTime) -> Option<Postponed> {
        let postponed = self.breaker.waits(event)?;
        let left =
            Duration::try_from(deadline.timestamp().duration_since(self.clock().now())).unwrap_or_default();
        (postponed.wait < left).then_some(postponed)
    }

    /// Lets the stage act on a job and settles the delivery.
    async fn process(
        &self,
        context: DeliveryContext,
        message: &Message,
        effect: String,
        AcceptedJob { job, deadline, digest }: AcceptedJob<S::Job>,
    ) -> Settlement {
        let (begun, event) = (Instant::now(), EventKey::of(&effect));
        let mut acting = JobContext { trace: context.trace.clone(), deadline, effect, digest };
        let outcome = timeout_at(context.keep_until, stages::act(&self.stage, job, &mut acting)).await;
        let outcome = outcome.unwrap_or_else(|_| self.overdue(event, begun));
        let context = DeliveryContext { deadline: acting.deadline.timestamp(), ..context };
        self.carry_out(&context, message, event, begun, outcome).await
    }

    /// Settles a delivery as its `outcome` says. Work on its `event` started at `begun`.
    async fn carry_out(
        &self,
        context: &DeliveryContext,
        message: &Message,
        event: EventKey,
        begun: Instant,
        outcome: Outcome,
    ) -> Settlement {
        fault::point(&self.queue, "decided");
        let verdict = self.breaker.observe(event, begun, &outcome, context.deadline);
        self.settler.settle(context, message, outcome, verdict).await
    }

    /// The time of the next attempt, if it is too far ahead to wait for it here.
    async fn not_due_until(&self, message: &Message) -> Option<Timestamp> {
        let at = message.not_before()?;
        let wait = Duration::try_from(at.duration_since(self.clock().now())).unwrap_or_default();
        // Longer than any delay we set: clock skew, or another producer wrote the header.
        if wait > self.settler.longest_wait(self.limits.breaker.probe_max) {
            return None;
        }
        if wait > self.settler.shortest_delay() {
            return Some(at);
        }
        sleep(wait).await;
        None
    }

    /// The outcome of a delivery that exceeded its processing time.
    fn overdue(&self, event: EventKey, begun: Instant) -> Outcome {
        self.metrics.overdue();
        self.breaker.overdue(event, begun);
        warn!("processing exceeded amqp.delivery_timeout; requeueing the delivery");
        Outcome::Requeued
    }
}

/// The job, if its session has not ended since its message was read.
fn in_time<J>(job: AcceptedJob<J>, now: Timestamp) -> Result<AcceptedJob<J>, Death> {
    if job.deadline.timestamp() > now { Ok(job) } else { Err(Death::new(Class::Expired, SESSION_OVER)) }
}
