//! Takes deliveries for a stage: a permit first, then the delivery, then a task of its own that carries both until the
//! delivery is settled. While the stage's breaker is open, or a message ended the connection that can't be read, one delivery
//! at a time; after a start or a connection on which nothing was settled, few at a time at first (see [`Begin`]).

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
use tracing::{debug, warn};

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

/// How often a wait looks whether its connection still stands.
const HEALTH: Duration = Duration::from_secs(1);
/// Where one at a time is delivered and none comes for this long, none is left that came together with one that can't be read.
const QUIET: Duration = Duration::from_secs(5);
/// Longer than the longest delay of `retry.delays` by default: after this long without a delivery, no message waits for the API.
const NOTHING_WAITS_AFTER: Duration = Duration::from_secs(15 * 60);
/// The wait of a message whose event is being worked on.
const BUSY: Postponed = Postponed { wait: Duration::from_secs(1), max: Duration::from_secs(5) };
/// So many messages that need no call, one after the other, are a backlog of them.
const REFUSED_IN_A_ROW: u32 = 4;
/// From this many deliveries without an outcome on, each try of a message is noted in the ledger: a worker may have died over it.
const SUSPECT: u32 = 3;
/// Suspects come to their turn in random order, spread over this time.
const SUSPECTS_SPREAD_MS: u64 = 250;

/// The limits of a consumer.
#[derive(Clone, Debug)]
pub struct ConsumerLimits {
    /// Deliveries that are held unacknowledged.
    pub prefetch: u16,
    /// Deliveries that are worked on.
    pub concurrency: usize,
    /// Bytes that the work on them may take.
    pub bytes: usize,
    /// Workers that may die over one message before it is put aside.
    pub deliveries_max: u32,
    /// Longest that a delivery is kept without being settled.
    pub delivery_timeout: Duration,
    /// For any single answer of the broker.
    pub timeout: Duration,
    /// When to stop taking.
    pub breaker: breaker::BreakerPolicy,
}

impl ConsumerLimits {
    /// From how many deliveries without an outcome on a try is noted.
    fn suspect_from(&self) -> u32 {
        SUSPECT.min(self.deliveries_max.saturating_sub(1))
    }

    /// How many noted tries may be left: with those before them, workers that died.
    fn deaths_max(&self) -> u32 {
        self.deliveries_max.saturating_sub(self.suspect_from()).max(1)
    }

    /// The age at which work in progress is given back, whatever it waits for: after `delivery_timeout` for an outcome, some
    /// answers of the broker until it is settled.
    #[must_use]
    pub fn work_age_max(&self) -> Duration {
        self.delivery_timeout.saturating_add(self.timeout.saturating_mul(4))
    }
}

/// How taking begins. A message may end every worker that takes it, or every connection: whatever is delivered together with
/// it is counted with it, until the broker or this program puts all of them aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// As many as the limits allow: nothing points to such a message.
    AtOnce,
    /// One, then twice as many and so on, while what comes was delivered before: one of those may have ended a worker.
    Slowly,
    /// One at a time, as many as may have been delivered together: one of them is known to end connections.
    Singly,
}

/// A delivery that is worked on.
struct DeliveryWork {
    message: Message,
    properties: BasicProperties,
    receipt: Receipt,
    begun: Instant,
    /// So many workers died over it that it is put aside.
    deaths: Option<u32>,
}

/// The try of a message that a worker may have died over; of others there is nothing in it.
#[derive(Default)]
struct Trial {
    deaths: Option<u32>,
    /// Of a message that is put aside.
    key: Option<String>,
    noted: Option<Try>,
    /// Held until the try is taken back.
    turn: Option<OwnedMutexGuard<()>>,
}

impl Trial {
    /// The try has ended: the delivery is settled, or it is not and there was a panic (`Err(true)`).
    async fn end(self, tries: &Tries, settled: Result<Settled, bool>) {
        let gone = matches!(settled, Ok(Settled::Done | Settled::Dead(_)));
        match (self.noted, settled) {
            (Some(noted), Err(true)) => noted.leave(),
            (Some(noted), _) if gone => noted.end_all().await,
            (Some(noted), _) => noted.end().await,
            (None, _) => {}
        }
        if let Some(key) = self.key.filter(|_| gone) {
            tries.forget(&key).await;
        }
        drop(self.turn);
    }
}

/// Takes what is in one queue to one stage.
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
    /// Messages that a worker may have died over take turns.
    suspects: Arc<tokio::sync::Mutex<()>>,
    working: Working,
    /// How the next subscription begins: a [`Begin`].
    begin: AtomicU8,
    settled: AtomicU64,
    metrics: StageMetrics,
    tasks: Mutex<JoinSet<()>>,
    /// True once nothing more is to be taken.
    stop: watch::Receiver<bool>,
}

impl<S: Stage> Consumer<S> {
    /// Takes from `queue` to `stage`, until `stop` turns true.
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
            suspects: Arc::default(),
            working: Working::default(),
            begin: AtomicU8::new(Begin::Slowly as u8),
            settled: AtomicU64::new(0),
            metrics,
            tasks: Mutex::default(),
            stop,
        }
    }

    /// Consumes from `source` until it breaks (`Err`) or `stop` turns true (`Ok`). What is in progress then goes on.
    ///
    /// # Errors
    /// [`BrokerError`]: what broke.
    pub async fn consume(self: &Arc<Self>, source: Source<'_>) -> Result<(), BrokerError> {
        while !self.is_stopped() {
            match self.breaker.probe_at() {
                None => match self.begin() {
                    Begin::Singly => self.take_singly(source).await?,
                    Begin::Slowly => self.take_more_and_more(source).await?,
                    Begin::AtOnce => self.take_all(source).await?,
                },
                Some(at) => {
                    self.pause(source, at).await?;
                    self.probe(source).await?;
                }
            }
        }
        Ok(())
    }

    /// The queue that it takes from.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// What it counts in.
    #[must_use]
    pub const fn metrics(&self) -> &StageMetrics {
        &self.metrics
    }

    /// What stops it.
    #[cfg(test)]
    pub(crate) const fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Whether nothing more is to be taken.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// How the next subscription begins.
    pub fn begin_next(&self, begin: Begin) {
        self.begin.store(begin as u8, Ordering::Relaxed);
    }

    fn begin(&self) -> Begin {
        let number = self.begin.load(Ordering::Relaxed);
        [Begin::Slowly, Begin::Singly]
            .into_iter()
            .find(|begin| *begin as u8 == number)
            .unwrap_or(Begin::AtOnce)
    }

    /// How many deliveries were settled so far.
    #[must_use]
    pub fn settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }

    /// Resolves when nothing more is to be taken.
    pub async fn stopped(&self) {
        // A sender that is gone means a worker that is gone.
        _ = self.stop.clone().wait_for(|stop| *stop).await;
    }

    /// Takes as many as the limits allow, until the breaker opens or a stop is asked for.
    async fn take_all(self: &Arc<Self>, source: Source<'_>) -> Result<(), BrokerError> {
        let mut declared_again = self.settler.declared_again();
        let mut subscription = self.subscribe(source, self.limits.prefetch).await?;
        let _shown = self.metrics.consuming();
        loop {
            tokio::select! {
                biased;
                () = self.stopped() => break,
                () = self.breaker.opened() => break,
                () = changed(&mut declared_again) => return self.end(subscription).await.map(drop),
                next = self.next(&mut subscription) => {
                    let (permit, delivery) = next?;
                    self.spawn(Arc::clone(self).work(permit, delivery));
                }
            }
        }
        self.hand_back(subscription).await
    }

    /// Takes one delivery after the other: as many as may have come together with one that can't be read, unless none comes any
    /// more. Then all can be taken again.
    async fn take_singly(self: &Arc<Self>, source: Source<'_>) -> Result<(), BrokerError> {
        let mut subscription = self.subscribe(source, 1).await?;
        let _shown = self.metrics.consuming();
        for _ in 0..self.limits.prefetch {
            let next = tokio::select! {
                biased;
                () = self.stopped() => return self.hand_back(subscription).await,
                () = self.breaker.opened() => return self.hand_back(subscription).await,
                next = self.next_soon(&mut subscription) => next?,
            };
            let Some((permit, delivery)) = next else { break };
            self.work_to_the_end(permit, delivery).await;
        }
        self.begin_next(Begin::AtOnce);
        self.hand_back(subscription).await
    }

    /// Takes one delivery, then two, four and so on, each time until all are settled, while they were delivered before. The
    /// first that is new ends this, and so does an empty queue.
    async fn take_more_and_more(self: &Arc<Self>, source: Source<'_>) -> Result<(), BrokerError> {
        let mut window = 1;
        while window < self.limits.prefetch {
            let mut subscription = self.subscribe(source, window).await?;
            let shown = self.metrics.consuming();
            let (mut ends, mut again) = (Vec::new(), true);
            while again && ends.len() < window.into() {
                let next = tokio::select! {
                    biased;
                    () = self.stopped() => return self.hand_back(subscription).await,
                    () = self.breaker.opened() => return self.hand_back(subscription).await,
                    next = self.next_soon(&mut subscription) => next?,
                };
                again = next.as_ref().is_some_and(|(_, delivery)| delivery.redelivered);
                ends.extend(next.map(|(permit, delivery)| self.begin_work(permit, delivery)));
            }
            // Whatever came meanwhile was delivered in place of what is settled by now.
            ends.extend(self.end(subscription).await?);
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
        self.begin_next(Begin::AtOnce);
        Ok(())
    }

    /// Ends the subscription, and begins to work on what was delivered and not taken: given back it would be counted.
    async fn end(
        self: &Arc<Self>,
        subscription: Subscription,
    ) -> Result<Vec<oneshot::Receiver<()>>, BrokerError> {
        let mut ends = Vec::new();
        for delivery in subscription.cancel(self.limits.timeout).await? {
            match Arc::clone(&self.permits).try_acquire_owned() {
                Ok(permit) => ends.push(self.begin_work(permit, delivery)),
                Err(_) => _ = delivery.receipt.requeue(self.limits.timeout).await?,
            }
        }
        Ok(ends)
    }

    /// The next delivery; `None` where none comes for a while.
    async fn next_soon(
        &self,
        subscription: &mut Subscription,
    ) -> Result<Option<(OwnedSemaphorePermit, Delivery)>, BrokerError> {
        let permit = self.permit(subscription).await?;
        match timeout(QUIET, subscription.next()).await {
            Ok(delivery) => Ok(Some((permit, delivery?))),
            Err(_) => Ok(None),
        }
    }

    /// Takes one delivery after the other until one says whether the API works again.
    async fn probe(self: &Arc<Self>, source: Source<'_>) -> Result<(), BrokerError> {
        for _ in 0..REFUSED_IN_A_ROW {
            let mut declared_again = self.settler.declared_again();
            let mut subscription = self.subscribe(source, 1).await?;
            let shown = self.metrics.consuming();
            let (permit, delivery) = tokio::select! {
                biased;
                () = self.stopped() => return self.hand_back(subscription).await,
                () = changed(&mut declared_again) => return self.hand_back(subscription).await,
                next = self.next_probe(&mut subscription) => next?,
            };
            self.hand_back(subscription).await?;
            drop(shown);
            self.work_to_the_end(permit, delivery).await;
            if !self.breaker.is_due() || self.is_stopped() {
                return Ok(());
            }
        }
        self.pass_over_refused(source).await
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

    /// Settles messages that need no call, many at once, up to the first that needs one: that is the probe. A backlog of events
    /// that have expired, or of copies that have to wait, must not hold up the others when the API works again.
    async fn pass_over_refused(self: &Arc<Self>, source: Source<'_>) -> Result<(), BrokerError> {
        let mut declared_again = self.settler.declared_again();
        let mut subscription = self.subscribe(source, self.limits.prefetch).await?;
        let shown = self.metrics.consuming();
        let probe = loop {
            let (permit, delivery) = tokio::select! {
                biased;
                () = self.stopped() => break None,
                () = changed(&mut declared_again) => break None,
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
        self.hand_back(subscription).await?;
        drop(shown);
        if let Some((permit, delivery)) = probe {
            self.work_to_the_end(permit, delivery).await;
        }
        Ok(())
    }

    async fn work_to_the_end(self: &Arc<Self>, permit: OwnedSemaphorePermit, delivery: Delivery) {
        // A task that is aborted drops its sender, which is an end too.
        _ = self.begin_work(permit, delivery).await;
    }

    /// Begins to work on a delivery; resolves when that has ended.
    fn begin_work(
        self: &Arc<Self>,
        permit: OwnedSemaphorePermit,
        delivery: Delivery,
    ) -> oneshot::Receiver<()> {
        let (done, ended) = oneshot::channel();
        let work = Arc::clone(self).work(permit, delivery);
        // A task of its own, as for every delivery: what becomes of it must not hang on this connection.
        self.spawn(work.map(|()| _ = done.send(())));
        ended
    }

    async fn subscribe(&self, source: Source<'_>, prefetch: u16) -> Result<Subscription, BrokerError> {
        let name = format!("instant-connect-worker.{}.{:08x}", S::NAME, fastrand::u32(..));
        let subscription = source.subscribe(&self.queue, &name, prefetch, self.limits.timeout).await?;
        debug!(stage = S::NAME, queue = self.queue, prefetch, "consuming");
        Ok(subscription)
    }

    /// Ends the subscription and gives back what was delivered and not taken. What was taken goes on.
    async fn hand_back(&self, subscription: Subscription) -> Result<(), BrokerError> {
        let limit = self.limits.timeout;
        for delivery in subscription.cancel(limit).await? {
            delivery.receipt.requeue(limit).await?;
        }
        Ok(())
    }

    /// Waits until `at` or a stop.
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

    /// The permit first: a delivery that nobody here could work on is better with another worker.
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
        // One that was taken before was counted then.
        if let Some(delay) = properties::held_for(&properties, &self.queue).filter(|_| !redelivered) {
            self.metrics.returned(delay);
        }
        let ready = async {
            let trial = self.trial(&message).await;
            let bytes = if trial.deaths.is_some() { message.body.len() } else { self.stage.bytes(&message) };
            (trial, self.budget.take(bytes).await)
        };
        let Ok((trial, bytes)) = timeout_at(begun + self.limits.delivery_timeout, ready).await else {
            // The others took all its time.
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
            // A defect outside the stage, or what never ends: the message stays, and the count of its tries ends this.
            _ = receipt.requeue_counted(self.limits.timeout).await;
            drop(work);
        }
        drop((permit, bytes));
    }

    /// Notes that a try of `message` begins, if a worker may have died over it: then one at a time, so that no other is counted
    /// with it.
    async fn trial(&self, message: &Message) -> Trial {
        if message.deliveries() < self.limits.suspect_from() {
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
            sleep(Duration::from_millis(fastrand::u64(..SUSPECTS_SPREAD_MS))).await;
            Some(Arc::clone(&self.suspects).lock_owned().await)
        };
        let noted = if unfinished.is_ok() { self.tries.begin(&key).await.ok() } else { None };
        Trial { noted, turn, ..Trial::default() }
    }

    async fn settle(&self, work: DeliveryWork) -> Settled {
        let DeliveryWork { mut message, properties, receipt, begun, deaths } = work;
        let keep_until = begun + self.limits.delivery_timeout;
        let identity = if deaths.is_none() {
            fault::point(&self.queue, "taken");
            self.stage.identify(&message)
        } else {
            // Its body may be what workers die over.
            start_session::named(&message)
        };
        let effect = EventKey::of(&self.stage.effect(&message, &identity));
        let Identity { event_id, trace, occurred_at } = identity;
        let event_id = loggable_id(event_id.as_str()).into_owned();
        let span = self.settler.process(S::NAME, &event_id, &trace);
        let trace = span.context().clone();
        // What the stage sends is sent within this span, and so is the copy for the next attempt, or the dead letter.
        trace.write(&mut message.headers);
        // A replayed letter was late when it died, and was counted then.
        let happened_at = (message.replayed_at().or(occurred_at))
            .or_else(|| message.first_failed_at())
            .unwrap_or_else(clock::now);
        let ticket = DeliveryContext { receipt, properties, event_id, trace, keep_until, happened_at };
        let report = DeliveryLog::begin(S::NAME, &ticket, message.attempts(), begun, span);
        let settlement = if let Some(deaths) = deaths {
            let before = self.limits.suspect_from();
            let reason =
                format!("{deaths} workers died over it, after {before} deliveries without an outcome");
            let poison = Outcome::Dead(Death::new(Class::Poison, reason));
            self.settler.settle(&ticket, &message, poison, BreakerVerdict::Own).await
        } else if let Some(at) = self.early(&message).await {
            self.settler.hold_again(&ticket, &message, at).await
        } else {
            let worked = self.working.begin(effect);
            match self.must_wait(&message, effect, worked.is_some()) {
                Some((deadline, reason, postponed)) => {
                    self.settler.busy(&ticket, &message, deadline, reason, postponed).await
                }
                None => self.act(&ticket, &message, effect).await,
            }
        };
        report.settled(&settlement);
        if settlement.settled != Settled::Lost {
            self.settled.fetch_add(1, Ordering::Relaxed);
        }
        settlement.settled
    }

    /// Why, for how long and until when at most a message has to wait for another one with the same effect. One that ends without
    /// its effect has not.
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
        Some((self.stage.deadline(message).ok()?, "the same event is being worked on", BUSY))
    }

    /// How long a message has to wait because its event failed a moment ago, and until when at most. A wait that would outlast
    /// its session is none: there is time for a last try.
    fn waits(&self, message: &Message, effect: EventKey) -> Option<(WireTime, Postponed)> {
        let postponed = self.breaker.waits(effect)?;
        let deadline = self.stage.deadline(message).ok()?;
        let left = Duration::try_from(deadline.timestamp().duration_since(clock::now())).unwrap_or_default();
        (postponed.wait < left).then_some((deadline, postponed))
    }

    /// Decides what becomes of a message, and carries it out.
    async fn act(&self, ticket: &DeliveryContext, message: &Message, effect: EventKey) -> Settlement {
        let begun = Instant::now();
        let outcome = timeout_at(ticket.keep_until, stages::run(&self.stage, message)).await;
        let outcome = outcome.unwrap_or_else(|_| self.overdue(ticket, effect));
        fault::point(&self.queue, "decided");
        let verdict = self.breaker.observe(effect, begun, &outcome);
        self.settler.settle(ticket, message, outcome, verdict).await
    }

    /// When `message` may be tried, where that is too far ahead to be waited for here.
    async fn early(&self, message: &Message) -> Option<Timestamp> {
        let at = message.not_before()?;
        let wait = Duration::try_from(at.duration_since(clock::now())).unwrap_or_default();
        // Nobody holds a message for that long: a clock was wrong when this one was held, or a stranger did it.
        if wait > self.settler.longest_wait() {
            return None;
        }
        if wait > self.settler.shortest_hold() {
            return Some(at);
        }
        sleep(wait).await;
        None
    }

    /// What becomes of a delivery that was kept for as long as it may be.
    fn overdue(&self, ticket: &DeliveryContext, effect: EventKey) -> Outcome {
        self.metrics.overdue();
        self.breaker.overdue(effect);
        let (event_id, trace_id) = (&ticket.event_id, ticket.trace.trace_id());
        warn!(event_id, trace_id, stage = S::NAME, "no outcome within amqp.delivery_timeout");
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

    /// Ends what is in progress: its deliveries go back to the broker with their channel.
    pub fn abort(&self) {
        self.tasks().abort_all();
    }

    /// Resolves when nothing is in progress any more.
    pub async fn idle(&self) {
        let all = u32::try_from(self.limits.concurrency).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        _ = self.permits.acquire_many(all).await;
    }

    /// How many messages are worked on.
    #[must_use]
    pub fn in_progress(&self) -> usize {
        self.limits.concurrency - self.permits.available_permits().min(self.limits.concurrency)
    }
}

/// Resolves when the queues were declared again: then the one that is consumed may be gone, without a word from the broker.
async fn changed(declared_again: &mut watch::Receiver<u64>) {
    if declared_again.changed().await.is_err() {
        pending::<()>().await;
    }
}
