//! Consumes deliveries for a stage. It first acquires a permit, then takes a delivery, then starts a task that holds
//! both until the delivery is settled. While the stage's breaker is open, or after an unreadable message ended the
//! connection, it takes one delivery at a time. After a start, or after a connection on which nothing was settled, it
//! starts with few at a time (see [`ConsumeMode`]).
//!
//! - `subscribe`: the modes of taking deliveries
//! - `delivery`: the path of one delivery
//! - `isolation`: messages that may have killed a worker

mod delivery;
mod isolation;
mod subscribe;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    budget::Budget, connection::BrokerError, port::Source, settle::Settler, tries::Tries, working::Working,
};
use crate::{
    breaker::{self, Breaker},
    clock::Clock,
    random::Random,
    stages::Stage,
    state::StageState,
    telemetry::metrics::StageMetrics,
};

/// The limits of a consumer.
#[derive(Clone, Debug)]
pub struct ConsumerLimits {
    /// Maximum number of unacknowledged deliveries.
    pub prefetch: u16,
    /// Maximum number of deliveries being processed.
    pub concurrency: usize,
    /// Maximum number of bytes that their processing may take.
    pub bytes: usize,
    /// Workers that may die while processing one message before it is dead-lettered; at least two.
    pub deliveries_max: u32,
    /// Maximum processing time per delivery.
    pub delivery_timeout: Duration,
    /// Time limit for each reply of the broker.
    pub timeout: Duration,
    /// The breaker's thresholds and probe intervals.
    pub breaker: breaker::BreakerPolicy,
}

impl ConsumerLimits {
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

/// Everything that a [`Consumer`] is made of.
#[derive(Debug)]
pub struct ConsumerParts<S> {
    pub stage: S,
    /// The queue to consume.
    pub queue: String,
    pub settler: Settler,
    pub limits: ConsumerLimits,
    pub tries: Tries,
    pub state: StageState,
    pub metrics: StageMetrics,
    /// Stops consuming when cancelled.
    pub stop: CancellationToken,
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
    /// Held while a large message is parsed before its bytes are taken from the budget.
    reading: tokio::sync::Mutex<()>,
    breaker: Breaker,
    tries: Tries,
    /// Lets messages that may have killed a worker run one at a time.
    isolated: Arc<tokio::sync::Mutex<()>>,
    working: Working,
    /// The [`ConsumeMode`] of the next subscription.
    mode: AtomicU8,
    settled: AtomicU64,
    state: StageState,
    metrics: StageMetrics,
    /// The work in progress.
    tasks: TaskTracker,
    /// Cancelled to drop the work in progress.
    abort: CancellationToken,
    /// Cancelled once the worker is to stop consuming.
    stop: CancellationToken,
}

impl<S: Stage> Consumer<S> {
    #[must_use]
    pub fn new(parts: ConsumerParts<S>) -> Self {
        let ConsumerParts { stage, queue, settler, limits, tries, state, metrics, stop } = parts;
        metrics.set_permits(limits.concurrency);
        Self {
            stage,
            queue,
            permits: Arc::new(Semaphore::new(limits.concurrency)),
            budget: Budget::new(limits.bytes),
            reading: tokio::sync::Mutex::default(),
            breaker: Breaker::new(
                S::DEF.name,
                limits.breaker,
                state.breaker.clone(),
                metrics.breaker.clone(),
                settler.clock.clone(),
                settler.random.clone(),
            ),
            limits,
            settler,
            tries,
            isolated: Arc::default(),
            working: Working::default(),
            mode: AtomicU8::new(ConsumeMode::RampUp as u8),
            settled: AtomicU64::new(0),
            state,
            metrics,
            tasks: TaskTracker::new(),
            abort: CancellationToken::new(),
            stop,
        }
    }

    /// Consumes from `source` until the connection fails (`Err`) or `stop` is cancelled (`Ok`). Work in progress then
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

    /// The stage's state.
    #[must_use]
    pub const fn state(&self) -> &StageState {
        &self.state
    }

    /// The stage's metrics.
    #[must_use]
    pub const fn metrics(&self) -> &StageMetrics {
        &self.metrics
    }

    /// The time of the breaker's next probe whenever it changes; `None` while the breaker is closed.
    #[must_use]
    pub fn probes(&self) -> watch::Receiver<Option<Instant>> {
        self.breaker.probes()
    }

    /// True once the worker is to stop consuming.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Sets the mode of the next subscription.
    pub fn set_next_mode(&self, mode: ConsumeMode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }

    /// Spreads waits, and makes the ids of new traces.
    #[must_use]
    pub(crate) const fn random(&self) -> &Random {
        &self.settler.random
    }

    const fn clock(&self) -> &Clock {
        &self.settler.clock
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
        self.stop.cancelled().await;
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        // The tracker can't abort a task.
        let work = self.abort.clone().run_until_cancelled_owned(work);
        self.tasks.spawn(work.map(drop));
    }

    /// Aborts the work in progress. The broker requeues the deliveries when their channel closes.
    pub fn abort(&self) {
        self.abort.cancel();
    }

    /// Resolves when no work is in progress. To be called after the consumer has stopped.
    pub async fn idle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Number of messages in progress.
    #[must_use]
    pub fn in_progress(&self) -> usize {
        self.tasks.len()
    }
}
