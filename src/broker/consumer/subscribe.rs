//! The modes in which a consumer takes deliveries from its queue.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::join_all};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::debug;

use super::{ConsumeMode, Consumer};
use crate::{
    breaker::EventKey,
    broker::{
        connection::BrokerError,
        headers::Taken,
        port::{Delivery, Source, Subscription},
        properties,
    },
    stages::{self, Read, Stage},
};

/// Interval at which a waiting task checks that its connection is alive.
const HEALTH: Duration = Duration::from_secs(1);
/// In one-at-a-time mode: after this long without a delivery, the batch that held the unreadable message is drained.
const QUIET: Duration = Duration::from_secs(5);
/// Longer than the longest default delay of `retry.delays`: after this time without a delivery, no message waits for the API.
const NOTHING_WAITS_AFTER: Duration = Duration::from_secs(15 * 60);
/// Interval between two checks for a new token while no message waits.
const TOKEN_CHECK: Duration = Duration::from_secs(10);
/// Consecutive probes that need no API call before a backlog of such messages is assumed.
const WITHOUT_CALL_MAX: u32 = 4;

impl<S: Stage> Consumer<S> {
    /// Takes as many deliveries as the limits allow, until the breaker opens or a stop is requested.
    pub(super) async fn consume_unlimited(self: &Arc<Self>, source: Source<'_>) -> Result<(), BrokerError> {
        let mut redeclared = self.settler.redeclared();
        let mut subscription = self.subscribe(source, self.limits.prefetch).await?;
        let _shown = self.state.consuming();
        loop {
            tokio::select! {
                biased;
                () = self.stopped() => break,
                () = self.breaker.opened() => break,
                () = redeclared.changed() => return self.cancel_and_process(subscription).await.map(drop),
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
    pub(super) async fn consume_one_at_a_time(
        self: &Arc<Self>,
        source: Source<'_>,
    ) -> Result<(), BrokerError> {
        let mut subscription = self.subscribe(source, 1).await?;
        let _shown = self.state.consuming();
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
    pub(super) async fn consume_ramping_up(self: &Arc<Self>, source: Source<'_>) -> Result<(), BrokerError> {
        let mut window = 1;
        while window < self.limits.prefetch {
            let mut subscription = self.subscribe(source, window).await?;
            let shown = self.state.consuming();
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

    /// Cancels the subscription and processes deliveries that were not taken yet. Requeueing them would count a
    /// delivery.
    async fn cancel_and_process(
        self: &Arc<Self>,
        subscription: Subscription,
    ) -> Result<Vec<oneshot::Receiver<()>>, BrokerError> {
        let mut ends = Vec::new();
        for delivery in subscription.cancel(self.limits.timeout).await? {
            match Arc::clone(&self.permits).try_acquire_owned() {
                Ok(permit) => ends.push(self.start_work(permit, delivery)),
                Err(_) => _ = self.requeue(delivery).await?,
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
    pub(super) async fn probe(self: &Arc<Self>, source: Source<'_>) -> Result<(), BrokerError> {
        let due = self.breaker.probe_at();
        for _ in 0..WITHOUT_CALL_MAX {
            let mut redeclared = self.settler.redeclared();
            let mut subscription = self.subscribe(source, 1).await?;
            let shown = self.state.consuming();
            let (permit, delivery) = tokio::select! {
                biased;
                () = self.stopped() => return self.cancel_and_requeue(subscription).await,
                () = redeclared.changed() => return self.cancel_and_requeue(subscription).await,
                next = self.next_probe(&mut subscription) => next?,
            };
            self.cancel_and_requeue(subscription).await?;
            drop(shown);
            self.finish_work(permit, delivery).await;
            if self.probe_is_over(due) {
                return Ok(());
            }
        }
        self.settle_backlog(source).await
    }

    /// True if the probe that was `due` made a call, or nothing may be called now. A failed call schedules the next probe, which
    /// may be due by now, too. A rate limit that began during the pause delays the probe itself.
    fn probe_is_over(&self, due: Option<Instant>) -> bool {
        self.breaker.probe_at() != due || !self.breaker.is_due() || self.is_stopped()
    }

    async fn next_probe(
        &self,
        subscription: &mut Subscription,
    ) -> Result<(OwnedSemaphorePermit, Delivery), BrokerError> {
        let permit = self.permit(subscription).await?;
        let since = Instant::now();
        loop {
            if let Ok(delivery) = timeout(TOKEN_CHECK, subscription.next()).await {
                return Ok((permit, delivery?));
            }
            if self.stage.has_new_token() {
                self.breaker.token_replaced();
            }
            if since.elapsed() >= NOTHING_WAITS_AFTER {
                self.breaker.nothing_waits();
            }
        }
    }

    /// Settles messages that need no API call concurrently, up to the first message that needs one: that is the
    /// probe. A backlog of expired events or of copies that must wait must not delay the others when the API works
    /// again.
    async fn settle_backlog(self: &Arc<Self>, source: Source<'_>) -> Result<(), BrokerError> {
        let due = self.breaker.probe_at();
        let mut redeclared = self.settler.redeclared();
        let mut subscription = self.subscribe(source, self.limits.prefetch).await?;
        let shown = self.state.consuming();
        let probe = loop {
            let (permit, delivery) = tokio::select! {
                biased;
                () = self.stopped() => break None,
                () = redeclared.changed() => break None,
                next = self.next_probe(&mut subscription) => next?,
            };
            let taken = Taken::Work { queue: &self.queue, redelivered: delivery.redelivered };
            let message = properties::message(&delivery.properties, delivery.body.clone(), taken);
            // Its body may be the reason why workers die, so it is only read in a recorded try.
            if message.deliveries() >= self.limits.isolate_from() {
                self.finish_work(permit, delivery).await;
                if self.probe_is_over(due) {
                    break None;
                }
                continue;
            }
            // Its work reads the message again, because the job must not wait in memory for the budget.
            let Read { effect, job, .. } = stages::read(&self.stage, &message);
            let event = EventKey::of(&effect);
            if job.is_ok_and(|job| self.waits(event, job.deadline).is_none()) {
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
        let name = format!("instant-connect-worker.{}.{:08x}", S::DEF.name, self.random().u32(..));
        let subscription = source.subscribe(&self.queue, &name, prefetch, self.limits.timeout).await?;
        debug!(stage = S::DEF.name, queue = self.queue, prefetch, "subscribed to queue");
        Ok(subscription)
    }

    /// Cancels the subscription and requeues deliveries that were not taken. Work in progress continues.
    async fn cancel_and_requeue(&self, subscription: Subscription) -> Result<(), BrokerError> {
        for delivery in subscription.cancel(self.limits.timeout).await? {
            self.requeue(delivery).await?;
        }
        Ok(())
    }

    /// Requeues a delivery that was not taken.
    async fn requeue(&self, delivery: Delivery) -> Result<bool, BrokerError> {
        self.count_return(&delivery.properties, delivery.redelivered);
        delivery.receipt.requeue(self.limits.timeout).await
    }

    /// Waits until `at`, or until a stop is requested.
    pub(super) async fn pause(&self, source: Source<'_>, at: Instant) -> Result<(), BrokerError> {
        while Instant::now() < at {
            tokio::select! {
                biased;
                () = self.stopped() => return Ok(()),
                () = sleep_until(at.min(Instant::now() + HEALTH)) => {}
            }
            if source.is_gone() {
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
}
