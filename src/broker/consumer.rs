//! Consumes deliveries for a stage. It first acquires a permit, then takes a delivery, then starts a task that holds
//! both until the delivery is settled. While the stage's breaker is open, or after an unreadable message ended the
//! connection, it takes one delivery at a time. After a start, or after a connection on which nothing was settled, it
//! starts with few at a time (see [`ConsumeMode`]).

use std::{
    future::{Future, pending},
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use jiff::Timestamp;
use lapin::BasicProperties;
use tokio::{
    sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tracing::{Instrument, debug, warn};

use super::{
    budget::Budget,
    connection::BrokerError,
    delivery_log::DeliveryLog,
    headers::Taken,
    properties,
    settle::{DeliveryContext, Settlement, Settler},
    source::{Delivery, Receipt, Source, Subscription},
    tries::{self, Tries, Try},
    working::Working,
};
use crate::{
    breaker::{self, Breaker, BreakerVerdict, EventKey, Postponed},
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
    telemetry::metrics::StageMetrics,
};

/// Interval at which a waiting task checks that its connection is alive.
const HEALTH: Duration = Duration::from_secs(1);
/// In one-at-a-time mode: after this long without a delivery, the batch that held the unreadable message is drained.
const QUIET: Duration = Duration::from_secs(5);
/// Longer than the longest default delay of `retry.delays`: after this time without a delivery, no message waits for the API.
const NOTHING_WAITS_AFTER: Duration = Duration::from_secs(15 * 60);
/// The wait of a message while another delivery of its event is being processed.
const BUSY: Postponed = Postponed { wait: Duration::from_secs(1), max: Duration::from_secs(5) };
/// Consecutive probes that need no API call before a backlog of such messages is assumed.
const WITHOUT_CALL_MAX: u32 = 4;
/// From this many deliveries without an outcome, each try of a message is recorded in the ledger. A worker may have
/// died while processing it.
const ISOLATE_FROM: u32 = 3;
/// Isolated messages start in random order, spread over this time.
const ISOLATED_SPREAD_MS: u64 = 250;

/// The limits of a consumer.
#[derive(Clone, Debug)]
pub struct ConsumerLimits {
    /// Maximum number of unacknowledged deliveries.
    pub prefetch: u16,
    /// Maximum number of deliveries being processed.
    pub concurrency: usize,
    /// Maximum number of bytes that their processing may take.
    pub bytes: usize,
    /// Workers that may die while processing one message before it is dead-lettered.
    pub deliveries_max: u32,
    /// Maximum processing time per delivery.
    pub delivery_timeout: Duration,
    /// Time limit for each reply of the broker.
    pub timeout: Duration,
    /// The breaker's thresholds and probe intervals.
    pub breaker: breaker::BreakerPolicy,
}

impl ConsumerLimits {
    /// Number of deliveries without an outcome from which a try is recorded.
    fn isolate_from(&self) -> u32 {
        ISOLATE_FROM.min(self.deliveries_max.saturating_sub(1))
    }

    /// Number of unfinished tries at which a message is dead-lettered. Each is a worker that died.
    fn deaths_max(&self) -> u32 {
        self.deliveries_max.saturating_sub(self.isolate_from()).max(1)
    }

    /// Age at which work in progress is requeued in any case: `delivery_timeout` for an outcome, and some replies of
    /// the broker to settle it.
    #[must_use]
    pub fn work_age_max(&self) -> Duration {
        self.delivery_timeout.saturating_add(self.timeout.saturating_mul(4))
    }
}

/// Number of deliveries to consume at first. One message may end every worker or connection that receives it. The
/// broker also counts a delivery of every message delivered together with it, until these messages are dead-lettered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumeMode {
    /// As many as the limits allow, because nothing points to such a message.
    Unlimited,
    /// One, then two, four and so on, while deliveries are redelivered: one of them may have ended a worker.
    RampUp,
    /// One at a time, for as many as may have been delivered together, because one of them is known to end
    /// connections.
    OneAtATime,
}

/// A delivery in progress.
struct DeliveryWork {
    message: Message,
    properties: BasicProperties,
    receipt: Receipt,
    begun: Instant,
    /// The number of workers that died while processing it, if the message must be dead-lettered for that.
    deaths: Option<u32>,
}

/// The recorded try of an isolated message; empty for other messages.
#[derive(Default)]
struct Trial {
    deaths: Option<u32>,
    /// The key of a message that must be dead-lettered.
    key: Option<String>,
    recorded: Option<Try>,
    /// Held until the try is taken back, so that isolated messages run one at a time.
    turn: Option<OwnedMutexGuard<()>>,
}

impl Trial {
    /// Ends the try. `settled` is `Err(true)` after a panic and `Err(false)` if the time limit elapsed.
    async fn end(self, tries: &Tries, settled: Result<Settled, bool>) {
        let gone = matches!(settled, Ok(Settled::Done | Settled::Dead(_)));
        match (self.recorded, settled) {
            (Some(recorded), Err(true)) => recorded.count_as_death(),
            (Some(recorded), _) if gone => recorded.end_and_forget().await,
            (Some(recorded), _) => recorded.end().await,
            (None, _) => {}
        }
        if let Some(key) = self.key.filter(|_| gone) {
            tries.forget(&key).await;
        }
        drop(self.turn);
    }
}

/// Consumes one queue for one stage.
#[derive(Debug)]
pub struct Consumer<S> {
    stage: S,
    queue: String,
    settler: Settler,
    limits: ConsumerLimits,
    permits: Arc<Semaphore>,
    budget: Budget,
    breaker: Breaker,
    tries: Tries,
    /// Lets messages that may have killed a worker run one at a time.
    isolated: Arc<tokio::sync::Mutex<()>>,
    working: Working,
    /// The [`ConsumeMode`] of the next subscription.
    mode: AtomicU8,
    settled: AtomicU64,
    metrics: StageMetrics,
    tasks: Mutex<JoinSet<()>>,
    /// True once the worker is to stop consuming.
    stop: watch::Receiver<bool>,
}

impl<S: Stage> Consumer<S> {
    /// Creates a consumer of `queue` for `stage`. It stops when `stop` turns true.
    #[must_use]
    pub fn new(
        stage: S,
        queue: String,
        settler: Settler,
        limits: ConsumerLimits,
        tries: Tries,
        metrics: StageMetrics,
        stop: watch::Receiver<bool>,
    ) -> Self {
        metrics.set_permits(limits.concurrency);
        Self {
            stage,
            queue,
            settler,
            permits: Arc::new(Semaphore::new(limits.concurrency)),
            budget: Budget::new(limits.bytes),
            breaker: Breaker::new(S::NAME, limits.breaker, metrics.breaker.clone()),
            limits,
            tries,
            isolated: Arc::default(),
            working: Working::default(),
            mode: AtomicU8::new(ConsumeMode::RampUp as u8),
            settled: AtomicU64::new(0),
            metrics,
            tasks: Mutex::default(),
            stop,
        }
    }

    /// Consumes from `source` until the connection fails (`Err`) or `stop` turns true (`Ok`). Work in progress then
    /// continues.
    ///
    /// # Errors
    /// [`BrokerError`] if the connection or channel failed.
    pub async fn consume(self: &Arc<Self>, source: Source<'_>) -> Result<(), BrokerError> {
        while !self.is_stopped() {
            match self.breaker.probe_at() {
                None => match self.mode() {
                    ConsumeMode::OneAtATime => self.consume_one_at_a_time(source).await?,
                    ConsumeMode::RampUp => self.consume_ramping_up(source).await?,
                    ConsumeMode::Unlimited => self.consume_unlimited(source).await?,
                },
                Some(at) => {
                    self.pause(source, at).await?;
                    self.probe(source).await?;
                }
            }
        }
        Ok(())
    }

    /// The queue that this consumer consumes.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// The stage's metrics.
    #[must_use]
    pub const fn metrics(&self) -> &StageMetrics {
        &self.metrics
    }

    /// The stage's breaker.
    #[cfg(test)]
    pub(crate) const fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// True once the worker is to stop consuming.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Sets the mode of the next subscription.
    pub fn set_next_mode(&self, mode: ConsumeMode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }

    fn mode(&self) -> ConsumeMode {
        let number = self.mode.load(Ordering::Relaxed);
        [ConsumeMode::RampUp, ConsumeMode::OneAtATime]
            .into_iter()
            .find(|mode| *mode as u8 == number)
            .unwrap_or(ConsumeMode::Unlimited)
    }

    /// Number of deliveries settled so far.
    #[must_use]
    pub fn settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }

    /// Resolves when the worker is to stop consuming.
    pub async fn stopped(&self) {
        // A dropped sender means that the worker has ended.
        _ = self.stop.clone().wait_for(|stop| *stop).await;
    }

    /// Takes as many deliveries as the limits allow, until the breaker opens or a stop is requested.
    async fn consume_unlimited(self: &Arc<Self>, source: Source<'_>) -> Result<(), BrokerError> {
        let mut redeclared = self.settler.redeclared();
        let mut subscription = self.subscribe(source, self.limits.prefetch).await?;
        let _shown = self.metrics.consuming();
        loop {
            tokio::select! {
                biased;
                () = self.stopped() => break,
                () = self.breaker.opened() => break,
                () = changed(&mut redeclared) => return self.cancel_and_process(subscription).await.map(drop),
                next = self.next(&mut subscription) => {
                    let (permit, delivery) = next?;
                    self.spawn(Arc::clone(self).work(permit, delivery));
                }
            }
        }
        self.cancel_and_requeue(subscription).await
    }

    /// Takes one delivery at a time, for as many as may have been delivered together with the unreadable message, or
    /// until none arrives. Then the consumer returns to normal.
    async fn consume_one_at_a_time(self: &Arc<Self>, source: Source<'_>) -> Result<(), BrokerError> {
        let mut subscription = self.subscribe(source, 1).await?;
        let _shown = self.metrics.consuming();
        for _ in 0..self.limits.prefetch {
            let next = tokio::select! {
                biased;
                () = self.stopped() => return self.cancel_and_requeue(subscription).await,
                () = self.breaker.opened() => return self.cancel_and_requeue(subscription).await,
                next = self.next_unless_quiet(&mut subscription) => next?,
            };
            let Some((permit, delivery)) = next else { break };
            self.finish_work(permit, delivery).await;
        }
        self.set_next_mode(ConsumeMode::Unlimited);
        self.cancel_and_requeue(subscription).await
    }

    /// Takes one delivery, then two, four and so on while they are redelivered. Waits each time until all are
    /// settled. The first new delivery ends this mode, and so does an empty queue.
    async fn consume_ramping_up(self: &Arc<Self>, source: Source<'_>) -> Result<(), BrokerError> {
        let mut window = 1;
        while window < self.limits.prefetch {
            let mut subscription = self.subscribe(source, window).await?;
            let shown = self.metrics.consuming();
            let (mut ends, mut again) = (Vec::new(), true);
            while again && ends.len() < window.into() {
                let next = tokio::select! {
                    biased;
                    () = self.stopped() => return self.cancel_and_requeue(subscription).await,
                    () = self.breaker.opened() => return self.cancel_and_requeue(subscription).await,
                    next = self.next_unless_quiet(&mut subscription) => next?,
                };
                again = next.as_ref().is_some_and(|(_, delivery)| delivery.redelivered);
                ends.extend(next.map(|(permit, delivery)| self.start_work(permit, delivery)));
            }
            // Deliveries that arrived meanwhile replace those already settled.
            ends.extend(self.cancel_and_process(subscription).await?);
            drop(shown);
            if !again {
                break;
            }
            tokio::select! {
                biased;
                () = self.stopped() => return Ok(()),
                () = self.breaker.opened() => return Ok(()),
                _ = join_all(ends) => {}
            }
            window = window.saturating_mul(2);
        }
        self.set_next_mode(ConsumeMode::Unlimited);
        Ok(())
    }

    /// Cancels the subscription and processes deliveries that were not taken yet. Requeuing them would count a
    /// delivery.
    async fn cancel_and_process(
        self: &Arc<Self>,
        subscription: Subscription,
    ) -> Result<Vec<oneshot::Receiver<()>>, BrokerError> {
        let mut ends = Vec::new();
        for delivery in subscription.cancel(self.limits.timeout).await? {
            match Arc::clone(&self.permits).try_acquire_owned() {
                Ok(permit) => ends.push(self.start_work(permit, delivery)),
                Err(_) => _ = delivery.receipt.requeue(self.limits.timeout).await?,
            }
        }
        Ok(ends)
    }

    /// The next delivery; `None` if none arrives for a while.
    async fn next_unless_quiet(
        &self,
        subscription: &mut Subscription,
    ) -> Result<Option<(OwnedSemaphorePermit, Delivery)>, BrokerError> {
        let permit = self.permit(subscription).await?;
        match timeout(QUIET, subscription.next()).await {
            Ok(delivery) => Ok(Some((permit, delivery?))),
            Err(_) => Ok(None),
        }
    }

    /// Takes one delivery at a time until one shows if the API works again.
    async fn probe(self: &Arc<Self>, source: Source<'_>) -> Result<(), BrokerError> {
        for _ in 0..WITHOUT_CALL_MAX {
            let mut redeclared = self.settler.redeclared();
            let mut subscription = self.subscribe(source, 1).await?;
            let shown = self.metrics.consuming();
            let (permit, delivery) = tokio::select! {
                biased;
                () = self.stopped() => return self.cancel_and_requeue(subscription).await,
                () = changed(&mut redeclared) => return self.cancel_and_requeue(subscription).await,
                next = self.next_probe(&mut subscription) => next?,
            };
            self.cancel_and_requeue(subscription).await?;
            drop(shown);
            self.finish_work(permit, delivery).await;
            if !self.breaker.is_due() || self.is_stopped() {
                return Ok(());
            }
        }
        self.settle_backlog(source).await
    }

    async fn next_probe(
        &self,
        subscription: &mut Subscription,
    ) -> Result<(OwnedSemaphorePermit, Delivery), BrokerError> {
        let permit = self.permit(subscription).await?;
        if let Ok(delivery) = timeout(NOTHING_WAITS_AFTER, subscription.next()).await {
            return Ok((permit, delivery?));
        }
        self.breaker.nothing_waits();
        Ok((permit, subscription.next().await?))
    }

    /// Settles messages that need no API call concurrently, up to the first message that needs one: that is the
    /// probe. A backlog of expired events or of copies that must wait must not delay the others when the API works
    /// again.
    async fn settle_backlog(self: &Arc<Self>, source: Source<'_>) -> Result<(), BrokerError> {
        let mut redeclared = self.settler.redeclared();
        let mut subscription = self.subscribe(source, self.limits.prefetch).await?;
        let shown = self.metrics.consuming();
        let probe = loop {
            let (permit, delivery) = tokio::select! {
                biased;
                () = self.stopped() => break None,
                () = changed(&mut redeclared) => break None,
                next = self.next(&mut subscription) => next?,
            };
            let taken = Taken::Work { queue: &self.queue, redelivered: delivery.redelivered };
            let message = properties::message(&delivery.properties, delivery.body.clone(), taken);
            let effect = self.stage.effect(&message, &self.stage.identify(&message));
            if self.stage.deadline(&message).is_ok() && self.waits(&message, EventKey::of(&effect)).is_none()
            {
                break Some((permit, delivery));
            }
            self.spawn(Arc::clone(self).work(permit, delivery));
        };
        self.cancel_and_requeue(subscription).await?;
        drop(shown);
        if let Some((permit, delivery)) = probe {
            self.finish_work(permit, delivery).await;
        }
        Ok(())
    }

    async fn finish_work(self: &Arc<Self>, permit: OwnedSemaphorePermit, delivery: Delivery) {
        // An aborted task drops its sender, which also wakes us.
        _ = self.start_work(permit, delivery).await;
    }

    /// Starts to process a delivery; the receiver resolves when that has ended.
    fn start_work(
        self: &Arc<Self>,
        permit: OwnedSemaphorePermit,
        delivery: Delivery,
    ) -> oneshot::Receiver<()> {
        let (done, ended) = oneshot::channel();
        let work = Arc::clone(self).work(permit, delivery);
        // Its own task, so that it outlives this connection.
        self.spawn(work.map(|()| _ = done.send(())));
        ended
    }

    async fn subscribe(&self, source: Source<'_>, prefetch: u16) -> Result<Subscription, BrokerError> {
        let name = format!("instant-connect-worker.{}.{:08x}", S::NAME, fastrand::u32(..));
        let subscription = source.subscribe(&self.queue, &name, prefetch, self.limits.timeout).await?;
        debug!(stage = S::NAME, queue = self.queue, prefetch, "subscribed to queue");
        Ok(subscription)
    }

    /// Cancels the subscription and requeues deliveries that were not taken. Work in progress continues.
    async fn cancel_and_requeue(&self, subscription: Subscription) -> Result<(), BrokerError> {
        let limit = self.limits.timeout;
        for delivery in subscription.cancel(limit).await? {
            delivery.receipt.requeue(limit).await?;
        }
        Ok(())
    }

    /// Waits until `at`, or until a stop is requested.
    async fn pause(&self, source: Source<'_>, at: Instant) -> Result<(), BrokerError> {
        while Instant::now() < at {
            tokio::select! {
                biased;
                () = self.stopped() => return Ok(()),
                () = sleep_until(at.min(Instant::now() + HEALTH)) => {}
            }
            if !source.connected() {
                return Err(BrokerError::Ended("the connection was closed".to_owned()));
            }
        }
        Ok(())
    }

    /// Acquires a permit before a delivery. Without a permit, the delivery is better left to another worker.
    async fn next(
        &self,
        subscription: &mut Subscription,
    ) -> Result<(OwnedSemaphorePermit, Delivery), BrokerError> {
        let permit = self.permit(subscription).await?;
        Ok((permit, subscription.next().await?))
    }

    async fn permit(&self, subscription: &Subscription) -> Result<OwnedSemaphorePermit, BrokerError> {
        let acquire = Arc::clone(&self.permits).acquire_owned();
        tokio::pin!(acquire);
        loop {
            tokio::select! {
                biased;
                // The semaphore is never closed.
                permit = &mut acquire => {
                    return permit.map_err(|_| BrokerError::Ended("the consumer has ended".to_owned()));
                }
                () = sleep(HEALTH) => subscription.check()?,
            }
        }
    }

    async fn work(self: Arc<Self>, permit: OwnedSemaphorePermit, delivery: Delivery) {
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

    /// Records that a try of `message` begins, if a worker may have died while processing it. Such messages run one
    /// at a time, so that no other message gets counted.
    async fn trial(&self, message: &Message) -> Trial {
        if message.deliveries() < self.limits.isolate_from() {
            return Trial::default();
        }
        let key = tries::key(S::NAME, message);
        let unfinished = self.tries.unfinished(&key).await;
        let deaths = *unfinished.as_ref().unwrap_or(&0);
        if deaths >= self.limits.deaths_max() {
            return Trial { deaths: Some(deaths), key: Some(key), ..Trial::default() };
        }
        let turn = if unfinished == Ok(0) {
            None
        } else {
            sleep(Duration::from_millis(fastrand::u64(..ISOLATED_SPREAD_MS))).await;
            Some(Arc::clone(&self.isolated).lock_owned().await)
        };
        let recorded = if unfinished.is_ok() { self.tries.begin(&key).await.ok() } else { None };
        Trial { recorded, turn, ..Trial::default() }
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
    fn waits(&self, message: &Message, effect: EventKey) -> Option<(WireTime, Postponed)> {
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

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Aborts the work in progress. The broker requeues the deliveries when their channel closes.
    pub fn abort(&self) {
        self.tasks().abort_all();
    }

    /// Resolves when no work is in progress.
    pub async fn idle(&self) {
        let all = u32::try_from(self.limits.concurrency).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        _ = self.permits.acquire_many(all).await;
    }

    /// Number of messages in progress.
    #[must_use]
    pub fn in_progress(&self) -> usize {
        self.limits.concurrency - self.permits.available_permits().min(self.limits.concurrency)
    }
}

/// Resolves when the queues were redeclared. The consumed queue may then be gone, without a notification from the
/// broker.
async fn changed(redeclared: &mut watch::Receiver<u64>) {
    if redeclared.changed().await.is_err() {
        pending::<()>().await;
    }
}
