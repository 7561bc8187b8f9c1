//! Publishing on one channel.

use std::{
    collections::{BTreeMap, HashSet},
    future::Future,
    pin::pin,
    task::Poll,
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, ready},
    poll,
    stream::FuturesUnordered,
};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tracing::{Span, info, warn};

use super::{PublishError, PublishJob, PublishJobs, pending::Pending, refusals::Refusals};
use crate::{
    broker::{
        connection::{BrokerError, gone},
        port::{BrokerChannel, BrokerConnection, Confirmation, MessageKey, Peer},
        topology::Topology,
    },
    fault,
    state::PublishState,
    telemetry::metrics::PublishMetrics,
};

/// Maximum number of messages that wait for their confirm. So many that one queue without a leader does not soon hold up the others.
/// lapin may still have to write them, and writes them even if their callers give up meanwhile.
const OUTSTANDING_MAX: usize = 1024;
/// Multiple of `amqp.timeout` for which a confirm may be late while the channel replies.
const LATE_FACTOR: u32 = 4;
/// Interval between two checks if the broker blocks publishing.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Time after the last confirm after which recorded messages are resolved without another.
const RESOLVE_AFTER: Duration = Duration::from_millis(5);
/// Maximum wait for confirms on a stale channel.
const STALE_MAX: Duration = Duration::from_secs(2);

/// Reason for which a channel is no longer used, other than an error.
pub(super) enum End {
    /// All `Publisher` handles are dropped.
    Abandoned,
    /// The next message needs a new channel.
    Stale,
}

/// Publishing on one channel.
pub(super) struct PublishSession<'a, C: BrokerConnection> {
    pub(super) channel: C::Channel,
    pub(super) connection: &'a C,
    pub(super) topology: &'a Topology,
    state: &'a PublishState,
    pub(super) metrics: &'a PublishMetrics,
    pub(super) refusals: &'a mut Refusals,
    /// Time since which the channel must not be used for further messages.
    pub(super) stale_since: Option<Instant>,
    /// A message of this delivery was returned: a queue or binding that this program declares is missing.
    pub(super) missing: Option<Span>,
    /// Missing queues that were logged on this channel.
    pub(super) reported: HashSet<String>,
    /// The broker blocks publishing.
    blocked: bool,
    pub(super) last_answer: Instant,
    pub(super) limit: Duration,
    pub(super) next: u64,
    pub(super) confirms: FuturesUnordered<BoxFuture<'static, (u64, lapin::Result<Confirmation>)>>,
    /// In the order of publishing.
    pub(super) pending: BTreeMap<u64, Pending>,
    /// Confirmed or refused, but a `basic.return` may still be in flight.
    pub(super) unresolved: Vec<(u64, bool)>,
    /// Returned messages, each with the number of the first publish after its return.
    pub(super) returned: Vec<(MessageKey, u64)>,
}

impl<'a, C: BrokerConnection> PublishSession<'a, C> {
    pub(super) fn new(
        channel: C::Channel,
        connection: &'a C,
        topology: &'a Topology,
        limit: Duration,
        state: &'a PublishState,
        metrics: &'a PublishMetrics,
        refusals: &'a mut Refusals,
    ) -> Self {
        refusals.reset();
        Self {
            channel,
            connection,
            topology,
            state,
            metrics,
            refusals,
            stale_since: None,
            missing: None,
            reported: HashSet::new(),
            blocked: false,
            last_answer: Instant::now(),
            limit,
            next: 0,
            confirms: FuturesUnordered::new(),
            pending: BTreeMap::new(),
            unresolved: Vec::new(),
            returned: Vec::new(),
        }
    }

    /// Publishes until all handles are dropped, the channel is stale or an error occurs. Dropping the reply channel
    /// of a pending message tells its caller that the result is unknown.
    pub(super) async fn run(mut self, jobs: &mut PublishJobs) -> Result<End, BrokerError> {
        let connection = self.connection;
        let result = tokio::select! {
            biased;
            result = self.serve(jobs) => result,
            error = gone("publish", connection) => Err(error),
        };
        for pending in std::mem::take(&mut self.pending).into_values() {
            pending.answer(Err(PublishError::Unknown), self.metrics);
        }
        self.state.set_blocked(false);
        result
    }

    async fn serve(&mut self, jobs: &mut PublishJobs) -> Result<End, BrokerError> {
        let mut open = true;
        let mut health = interval(CHECK_INTERVAL.min(self.limit));
        health.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while open || !self.pending.is_empty() {
            if self.stale_since.is_none() && self.refusals.take_due() {
                info!("broker refuses all messages to a queue on this channel; opening a new channel");
                self.stale_since = Some(Instant::now());
            }
            let stale = self.stale_since.map(|since| since.elapsed());
            if stale.is_some() {
                // Confirms that have arrived must be processed before the channel ends.
                self.record_ready_confirms()?;
            }
            // While the broker blocks this connection, no channel can be closed or opened on it.
            let ends = |stale| self.pending.is_empty() || (self.unresolved.is_empty() && stale >= STALE_MAX);
            if !self.blocked && stale.is_some_and(ends) {
                return Ok(End::Stale);
            }
            tokio::select! {
                biased;
                _ = health.tick() => self.check_health().await?,
                Some((id, confirmation)) = self.confirms.next() => self.handle_confirm(id, confirmation).await?,
                job = jobs.recv(), if open && stale.is_none() && !self.is_paused() && self.pending.len() < OUTSTANDING_MAX => match job {
                    // The caller has given up, and its delivery is requeued.
                    Some(job) if job.reply.is_closed() || !job.turn.take() => {}
                    Some(job) => self.publish(job).await,
                    None => open = false,
                },
                // Usually the next confirm resolves them, but there may be none.
                () = sleep_until(self.last_answer + RESOLVE_AFTER), if self.is_resolvable() => self.resolve_recorded().await?,
            }
        }
        Ok(End::Abandoned)
    }

    /// True if recorded messages can be resolved. While the broker blocks, no request gets a reply that would tell.
    fn is_resolvable(&self) -> bool {
        !self.unresolved.is_empty() && (self.confirms.is_empty() || !self.is_paused())
    }

    /// True if no message must be given to lapin. Messages that lapin can't write because the broker blocks publishing
    /// would be published even if their callers have given up.
    fn is_paused(&self) -> bool {
        self.blocked || self.connection.is_blocked()
    }

    async fn check_health(&mut self) -> Result<(), BrokerError> {
        if self.is_blocked()? {
            return Ok(());
        }
        let now = Instant::now();
        let overdue: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| pending.deadline <= now).map(|(id, _)| *id).collect();
        if overdue.is_empty() {
            return Ok(());
        }
        // A channel without any reply is lost. If the channel replies, a missing confirm concerns one queue.
        if now - self.last_answer >= self.limit / 2 {
            let channel = self.channel.clone();
            self.await_reply("select confirms", channel.select_confirms()).await?;
            self.last_answer = Instant::now();
            self.record_ready_confirms()?;
        }
        // A queue without a leader confirms late. While the channel is open, a second publish would be a second message.
        let late = self.limit * (LATE_FACTOR - 1);
        for id in overdue {
            let is_answered = self.unresolved.iter().any(|(unresolved, _)| *unresolved == id);
            if !is_answered
                && self.pending.get(&id).is_some_and(|pending| pending.deadline + late <= now)
                && let Some(pending) = self.pending.remove(&id)
            {
                pending.answer(Err(PublishError::Unknown), self.metrics);
                // The broker may confirm nothing more for this queue on this channel, for example if somebody redeclared the queue.
                if self.stale_since.is_none() {
                    info!("broker does not confirm a message on this channel; opening a new channel");
                    self.stale_since = Some(now);
                }
            }
        }
        Ok(())
    }

    /// Returns true if the broker blocks publishing; logs transitions and updates the state. Blocked time does not
    /// count towards any confirm's time limit.
    pub(super) fn is_blocked(&mut self) -> Result<bool, BrokerError> {
        if self.channel.is_gone() {
            return Err(BrokerError::Ended("the channel was closed".to_owned()));
        }
        let blocked = self.connection.is_blocked();
        self.state.set_blocked(blocked);
        match (std::mem::replace(&mut self.blocked, blocked), blocked) {
            (false, true) => warn!(
                "broker blocked publishing (memory or disk alarm); publishing is paused until the alarm ends"
            ),
            (true, false) => info!("broker unblocked publishing"),
            _ => {}
        }
        if blocked {
            self.restart_time_limits();
        }
        Ok(blocked)
    }

    /// Restarts the time limit of every confirm.
    pub(super) fn restart_time_limits(&mut self) {
        let now = Instant::now();
        self.last_answer = now;
        self.pending.values_mut().for_each(|pending| pending.deadline = now + self.limit);
    }

    /// Waits for `action`, at most for the limit, not counting blocked time. lapin writes nothing while the broker
    /// blocks, and a new connection would be blocked too. If the connection ends, [`PublishSession::run`] ends this
    /// wait.
    pub(super) async fn await_reply<T>(
        &mut self,
        step: &'static str,
        action: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        let mut action = pin!(action);
        let mut until = Instant::now() + self.limit;
        loop {
            let pause = CHECK_INTERVAL.min(until.saturating_duration_since(Instant::now()));
            if let Ok(result) = timeout(pause, &mut action).await {
                return result.map_err(|error| BrokerError::Lapin(step, error));
            }
            if self.is_blocked()? {
                until = Instant::now() + self.limit;
            } else if Instant::now() >= until {
                return Err(BrokerError::Timeout(step, self.limit));
            }
        }
    }

    /// Starts to publish a message. Several messages wait to be written at the same time, so that lapin's thread writes
    /// them together.
    async fn publish(&mut self, job: PublishJob) {
        let PublishJob { publication, delivery, reply, room, turn: _ } = job;
        let key = MessageKey::of(&publication.exchange, &publication.routing_key, &publication.properties);
        let id = self.next;
        self.next += 1;
        let since = Instant::now();
        let deadline = since + self.limit;
        self.pending.insert(id, Pending { key, delivery, since, deadline, reply, _room: room });
        fault::point("publish", "asked");
        let confirm = self.channel.publish(publication);
        let mut confirm = confirm.map(move |confirmation| (id, confirmation)).boxed();
        // Polled before the next message, so that the order of messages is the order of their jobs.
        let confirm = match poll!(&mut confirm) {
            Poll::Ready(confirmation) => ready(confirmation).boxed(),
            Poll::Pending => confirm,
        };
        self.confirms.push(confirm);
    }
}
