//! Takes deliveries for a stage: a permit first, then the delivery, then a task of its own that carries both until the
//! delivery is settled.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use jiff::Timestamp;
use lapin::{
    Channel, Connection, Consumer as Deliveries,
    message::Delivery,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, warn};

use super::{
    connection::{BrokerError, within},
    gate::Gate,
    properties::{self, short},
    settle::{Settler, Ticket},
};
use crate::{
    contract::{header, message::Message, private::loggable_id},
    outcome::{Failure, Outcome},
    retry::{self, Decision, History, Policy},
    stages::{self, Stage},
};

/// How often a wait looks whether its channel still stands.
const HEALTH: Duration = Duration::from_secs(1);

/// The limits of a consumer.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Deliveries that are held unacknowledged.
    pub prefetch: u16,
    /// Deliveries that are worked on.
    pub concurrency: usize,
    /// Longest that a delivery is kept without an outcome.
    pub hold_max: Duration,
    /// For any single answer of the broker.
    pub timeout: Duration,
    /// When to try again.
    pub retry: Policy,
    /// The first and the longest wait between two tries while a token is refused.
    pub probe: (Duration, Duration),
}

/// Takes what is in one queue to one stage.
#[derive(Debug)]
pub struct Consumer<S> {
    stage: S,
    queue: String,
    settler: Settler,
    limits: Limits,
    permits: Arc<Semaphore>,
    gate: Gate,
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
        limits: Limits,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(limits.concurrency));
        Self {
            stage,
            queue,
            settler,
            limits,
            permits,
            gate: Gate::new(S::NAME),
            tasks: Mutex::default(),
            stop,
        }
    }

    /// Consumes over `connection` until it breaks (`Err`) or `stop` turns true (`Ok`). What is in progress then goes on.
    ///
    /// # Errors
    /// [`BrokerError`]: what broke.
    pub async fn consume(self: &Arc<Self>, connection: &Connection) -> Result<(), BrokerError> {
        let limit = self.limits.timeout;
        let channel = within("open channel", limit, connection.create_channel()).await?;
        within("set prefetch", limit, channel.basic_qos(self.limits.prefetch, BasicQosOptions::default()))
            .await?;
        let tag = short(&format!("instant-connect-worker.{}.{:08x}", S::NAME, fastrand::u32(..)));
        let options = BasicConsumeOptions::default();
        let consume = channel.basic_consume(short(&self.queue), tag.clone(), options, FieldTable::default());
        let mut deliveries = within("consume", limit, consume).await?;
        debug!(stage = S::NAME, queue = self.queue, "consuming");
        let result = self.take(&channel, &mut deliveries).await;
        if result.is_ok() {
            // What was delivered and not taken goes back by itself when the channel closes.
            _ = within("cancel", limit, channel.basic_cancel(tag, BasicCancelOptions::default())).await;
        }
        result
    }

    async fn take(
        self: &Arc<Self>,
        channel: &Channel,
        deliveries: &mut Deliveries,
    ) -> Result<(), BrokerError> {
        let mut stop = self.stop.clone();
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
                next = self.next(channel, deliveries) => {
                    let (permit, delivery) = next?;
                    // The channel lives as long as the last of its deliveries.
                    self.spawn(Arc::clone(self).work(permit, delivery, channel.clone()));
                }
            }
        }
    }

    /// The permit first: a delivery that nobody here could work on is better with another worker.
    async fn next(
        &self,
        channel: &Channel,
        deliveries: &mut Deliveries,
    ) -> Result<(OwnedSemaphorePermit, Delivery), BrokerError> {
        let ended = || {
            BrokerError::Ended(format!(
                "the broker ended the consumer of {}; was the queue deleted?",
                self.queue
            ))
        };
        let ready = async {
            let permit = Arc::clone(&self.permits).acquire_owned().await;
            self.gate.passable().await;
            permit
        };
        tokio::pin!(ready);
        let permit = loop {
            tokio::select! {
                permit = &mut ready => break permit.map_err(|_| ended())?,
                () = sleep(HEALTH) => if !channel.status().connected() {
                    return Err(BrokerError::Ended(format!("the channel of {} was closed", self.queue)));
                },
            }
        };
        let delivery = deliveries.next().await.ok_or_else(ended)?;
        Ok((permit, delivery.map_err(|error| BrokerError::Lapin("consume", error))?))
    }

    async fn work(self: Arc<Self>, permit: OwnedSemaphorePermit, mut delivery: Delivery, channel: Channel) {
        let keep_until = Instant::now() + self.limits.hold_max;
        let message = properties::message(&mut delivery);
        let event_id = message
            .message_id
            .as_deref()
            .map_or_else(|| "none".to_owned(), |id| loggable_id(id).into_owned());
        let ticket = Ticket { acker: delivery.acker, properties: delivery.properties, event_id, keep_until };
        let (message, outcome) = self.decide(message, &ticket).await;
        let settled = self.settler.settle(&ticket, &message, outcome).await;
        debug!(event_id = ticket.event_id, stage = S::NAME, ?settled, "settled");
        drop((permit, channel));
    }

    /// Runs the stage until it says something final, or time is up.
    async fn decide(&self, mut message: Message, ticket: &Ticket) -> (Message, Outcome) {
        let mut outcome = stages::run(&self.stage, &message).await;
        loop {
            outcome = match outcome {
                Outcome::TryAgain(failure) => match self.try_again(&mut message, failure, ticket).await {
                    None => stages::run(&self.stage, &message).await,
                    Some(outcome) => return (message, outcome),
                },
                Outcome::Wait(failure) => self.wait(&message, &failure, ticket).await,
                outcome => return (message, outcome),
            };
        }
    }

    /// Counts the failure and waits for the next attempt; an outcome, where there is none.
    async fn try_again(&self, message: &mut Message, failure: Failure, ticket: &Ticket) -> Option<Outcome> {
        let now = Timestamp::now();
        let history = History {
            attempts: message.attempts(),
            first_failed_at: message.first_failed_at().unwrap_or(now),
        };
        match retry::decide(&self.limits.retry, &failure, history, now, fastrand::f64()) {
            Decision::GiveUp(death) => Some(Outcome::Dead(death)),
            Decision::Again { at, attempts } => {
                let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
                warn!(
                    event_id = ticket.event_id,
                    stage = S::NAME,
                    reason = failure.reason,
                    attempts,
                    wait_ms = wait.as_millis(),
                    "trying again"
                );
                message.headers.insert(header::ATTEMPTS.to_owned(), attempts.to_string());
                message
                    .headers
                    .insert(header::FIRST_FAILED_AT.to_owned(), history.first_failed_at.to_string());
                self.rest(wait, ticket).await
            }
        }
    }

    /// Keeps the message while the other side refuses our token, and gives the first outcome after that.
    async fn wait(&self, message: &Message, failure: &Failure, ticket: &Ticket) -> Outcome {
        let _waiting = self.gate.close(&failure.reason);
        let mut tries = 0;
        loop {
            let _turn = tokio::select! {
                turn = self.gate.turn() => turn,
                outcome = self.rest(Duration::MAX, ticket) => return outcome.unwrap_or(Outcome::HandedBack),
            };
            if !self.gate.is_closed() {
                break;
            }
            tries += 1;
            let pause =
                retry::reconnect_wait(self.limits.probe.0, self.limits.probe.1, tries, fastrand::f64());
            if let Some(outcome) = self.rest(pause, ticket).await {
                return outcome;
            }
            let outcome = stages::run(&self.stage, message).await;
            if !matches!(outcome, Outcome::Wait(_)) {
                self.gate.open();
                return outcome;
            }
        }
        stages::run(&self.stage, message).await
    }

    /// Rests for `wait`. An outcome, where the worker stops, the delivery can't be kept that long, or its channel is gone.
    async fn rest(&self, wait: Duration, ticket: &Ticket) -> Option<Outcome> {
        let now = Instant::now();
        let until = now.checked_add(wait).unwrap_or(ticket.keep_until + HEALTH);
        let mut stop = self.stop.clone();
        loop {
            let next = (Instant::now() + HEALTH).min(until).min(ticket.keep_until);
            tokio::select! {
                () = sleep_until(next) => {}
                _ = stop.wait_for(|stop| *stop) => return Some(Outcome::HandedBack),
            }
            if next == until {
                return None;
            }
            if next == ticket.keep_until || !ticket.acker.usable() {
                return Some(Outcome::HandedBack);
            }
        }
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
