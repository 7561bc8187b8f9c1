//! The one task that publishes. It keeps many confirms outstanding. A message counts as delivered only when the
//! broker has confirmed it and not returned it.
//!
//! Two properties of lapin shape this task (measured, not guessed). First, a channel on which several tasks publish
//! can attach a confirm to the wrong message, so there is one task. Second, a returned message arrives attached to
//! *some* confirm that the same or an earlier acknowledgement settles. So a confirm counts only after every confirm
//! that could carry its return has been seen.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    message::BasicReturnMessage,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use strum::IntoStaticStr;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{Span, info, warn};

use super::{
    connection::{BrokerError, Connected, Connector, close, gone, within},
    properties::short,
    supervisor::{self, ConnectedTask, supervise},
    topology::{Topology, TopologyError},
};
use crate::{
    fault,
    state::{ConnectionState, PublishState},
    telemetry::metrics::{ConnectionMetrics, PublishMetrics, labels::Published},
};

/// Maximum number of messages that wait for their confirm.
const OUTSTANDING_MAX: usize = 1024;
/// Maximum number of messages that wait to be published.
const QUEUED_MAX: usize = 1024;
/// Multiple of `amqp.timeout` for which a confirm may be late while the channel answers.
const LATE_FACTOR: u32 = 4;
/// Interval between two checks if the broker blocks publishing.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum wait for confirms on a stale channel.
const STALE_MAX: Duration = Duration::from_secs(2);
/// Time for which a channel may refuse all messages of a route before it is replaced. Doubles each time that a new
/// channel does not help.
const REFUSING: Duration = Duration::from_secs(1);
/// Maximum of this time.
const REFUSING_MAX: Duration = Duration::from_secs(64);

/// A message to publish. Its properties make it persistent; it is always mandatory.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The exchange; empty for the default exchange.
    pub exchange: String,
    pub routing_key: String,
    pub properties: BasicProperties,
    pub body: Arc<[u8]>,
}

/// Reason for which a message is not known to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, IntoStaticStr)]
#[strum(serialize_all = "kebab-case", const_into_str)]
pub enum PublishError {
    /// The broker returned the message.
    #[error("message returned: no queue is bound to the routing key")]
    Unroutable,
    /// The broker refused the message: a queue is full, or its leader is unavailable.
    #[error("the broker refused the message (is a queue full?)")]
    Nacked,
    /// The connection broke, or no confirm arrived in time. The message may have been delivered.
    #[error("no confirm before the time limit or the end of the broker connection")]
    #[strum(serialize = "unconfirmed")]
    Unknown,
    /// The publisher has stopped.
    #[error("the publisher has stopped")]
    Ended,
}

impl PublishError {
    /// The name in spans.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.into_str()
    }
}

/// A handle to the publishing task.
#[derive(Clone, Debug)]
pub struct Publisher(mpsc::Sender<PublishJob>);

#[derive(Debug)]
pub(crate) struct PublishJob {
    pub(crate) publication: Publication,
    /// Span of the delivery that the message belongs to, for log lines.
    pub(crate) delivery: Span,
    pub(crate) reply: oneshot::Sender<Result<(), PublishError>>,
}

impl Publisher {
    /// Starts the task. The task ends, with its connection, when all handles are dropped and all replies are sent.
    #[must_use]
    pub fn start(
        connector: Arc<Connector>,
        topology: Topology,
        state: PublishState,
        metrics: PublishMetrics,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (sender, jobs) = mpsc::channel(QUEUED_MAX);
        let wait_max = connector.reconnect_max;
        let mut task = PublishTask { connector, topology, jobs, state, metrics };
        // The task never gives up, because a consumer does if the topology does not match.
        let publishing = async move { _ = supervise(&mut task, wait_max).await };
        (Self(sender), tokio::spawn(publishing))
    }

    /// A publisher whose jobs go to the returned receiver.
    #[cfg(test)]
    pub(crate) fn simulated() -> (Self, mpsc::Receiver<PublishJob>) {
        let (sender, receiver) = mpsc::channel(QUEUED_MAX);
        (Self(sender), receiver)
    }

    /// Publishes and waits for the broker's confirm. Without a connection this waits; the caller sets the time limit.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(&self, publication: Publication) -> Result<(), PublishError> {
        let (reply, answer) = oneshot::channel();
        let delivery = Span::current();
        self.0.send(PublishJob { publication, delivery, reply }).await.map_err(|_| PublishError::Ended)?;
        answer.await.unwrap_or(Err(PublishError::Ended))
    }
}

/// The publishing task.
struct PublishTask {
    connector: Arc<Connector>,
    topology: Topology,
    jobs: mpsc::Receiver<PublishJob>,
    state: PublishState,
    metrics: PublishMetrics,
}

impl ConnectedTask for PublishTask {
    type Ready = (Connected, Channel);

    fn name(&self) -> &'static str {
        "publish"
    }

    fn state(&self) -> &ConnectionState {
        &self.state.connection
    }

    fn metrics(&self) -> &ConnectionMetrics {
        &self.metrics.connection
    }

    async fn open(&self) -> Result<Self::Ready, TopologyError> {
        let connection = supervisor::connect(&self.connector, &self.topology, "publish").await?;
        match open_channel(&connection, self.connector.timeout).await {
            Ok(channel) => Ok((connection, channel)),
            Err(error) => {
                // Dropping the connection is not enough: lapin keeps it open for replies that it still awaits.
                close(&connection).await;
                Err(error.into())
            }
        }
    }

    /// Publishes on successive channels of the connection, until all `Publisher` handles are dropped or an error
    /// occurs.
    async fn run(&mut self, (connection, channel): &Self::Ready) -> Result<(), TopologyError> {
        let (limit, mut channel, mut refusals) =
            (self.connector.timeout, channel.clone(), Refusals::default());
        loop {
            let session = PublishSession::new(
                channel.clone(),
                connection,
                &self.topology,
                limit,
                &self.state,
                &self.metrics,
                &mut refusals,
            );
            match session.run(&mut self.jobs).await? {
                End::Abandoned => return Ok(()),
                End::Stale => {}
            }
            within("close channel", limit, connection, channel.close(200, "bye".into())).await?;
            self.topology.ensure(connection, limit).await?;
            channel = open_channel(connection, limit).await?;
        }
    }

    async fn close(&self, (connection, _): Self::Ready) {
        supervisor::disconnect(&connection, &self.topology).await;
    }

    /// Resolves when all `Publisher` handles are dropped.
    async fn stopped(&self) {
        while !(self.jobs.sender_strong_count() == 0 && self.jobs.is_empty()) {
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn log_connected(&self, outage: Duration) {
        if !outage.is_zero() {
            info!(after_ms = outage.as_secs_f64() * 1e3, "publisher reconnected");
        }
    }
}

/// Opens a channel with confirms.
async fn open_channel(connection: &Connected, limit: Duration) -> Result<Channel, BrokerError> {
    let channel = within("open channel", limit, connection, connection.create_channel()).await?;
    let select = channel.confirm_select(ConfirmSelectOptions::default());
    within("select confirms", limit, connection, select).await?;
    Ok(channel)
}

/// Identifies a returned message.
#[derive(Clone, Debug, PartialEq, Eq)]
struct MessageKey {
    exchange: String,
    routing_key: String,
    message_id: Option<String>,
}

impl MessageKey {
    fn of(exchange: &str, routing_key: &str, properties: &BasicProperties) -> Self {
        let message_id = properties.message_id().as_ref().map(|id| id.as_str().to_owned());
        Self { exchange: exchange.to_owned(), routing_key: routing_key.to_owned(), message_id }
    }
}

struct Pending {
    key: MessageKey,
    delivery: Span,
    since: Instant,
    deadline: Instant,
    reply: oneshot::Sender<Result<(), PublishError>>,
}

impl Pending {
    fn answer(self, result: Result<(), PublishError>, metrics: &PublishMetrics) {
        let published = match result {
            Ok(()) => Published::Confirmed,
            Err(PublishError::Unroutable) => Published::Returned,
            Err(PublishError::Nacked) => Published::Nacked,
            Err(PublishError::Unknown | PublishError::Ended) => Published::Unknown,
        };
        metrics.published(published, self.since.elapsed());
        // The caller may have given up; then the reply is not needed.
        _ = self.reply.send(result);
    }
}

/// Routes whose messages a channel refuses. When a RabbitMQ channel first publishes to a quorum queue, it asks the
/// queue's leader if it accepts messages. If the leader's node died a moment ago, the channel never asks another
/// node. It then refuses everything on this route until it is closed (seen on 3.10). A full queue looks the same, but
/// a new channel does not help.
#[derive(Debug, Default)]
struct Refusals {
    /// Routes on which the channel delivered.
    delivered: HashSet<Route>,
    /// Other routes on which it refused, with the time of the first refusal.
    refused: HashMap<Route, Instant>,
    /// Time after which a channel is replaced, for routes on which a new channel did not help.
    waits: HashMap<Route, Duration>,
}

/// An exchange and a routing key.
type Route = (String, String);

impl Refusals {
    /// Starts over for a new channel.
    fn reset(&mut self) {
        self.delivered.clear();
        self.refused.clear();
    }

    /// Records the broker's reply to a message.
    fn record(&mut self, key: &MessageKey, delivered: bool) {
        let route = (key.exchange.clone(), key.routing_key.clone());
        if self.delivered.contains(&route) {
            return;
        }
        if delivered {
            self.refused.remove(&route);
            self.waits.remove(&route);
            self.delivered.insert(route);
        } else {
            self.refused.entry(route).or_insert_with(Instant::now);
        }
    }

    /// Returns true if the channel should be replaced, and doubles the time for the next one.
    fn take_due(&mut self) -> bool {
        let waits = &mut self.waits;
        let due = self.refused.iter().find_map(|(route, since)| {
            let wait = *waits.get(route).unwrap_or(&REFUSING);
            (since.elapsed() >= wait).then(|| (route.clone(), (wait * 2).min(REFUSING_MAX)))
        });
        let is_due = due.is_some();
        waits.extend(due);
        is_due
    }
}

/// Reason for which a channel is no longer used, other than an error.
enum End {
    /// All `Publisher` handles are dropped.
    Abandoned,
    /// The next message needs a new channel.
    Stale,
}

/// Publishing on one channel.
struct PublishSession<'a> {
    channel: Channel,
    connection: &'a Connection,
    topology: &'a Topology,
    state: &'a PublishState,
    metrics: &'a PublishMetrics,
    refusals: &'a mut Refusals,
    /// Time since which the channel must not be used for further messages.
    stale_since: Option<Instant>,
    /// A message of this delivery was returned: a queue or binding that this program declares is missing.
    missing: Option<Span>,
    /// Missing queues that were logged on this channel.
    reported: HashSet<String>,
    /// The broker blocks publishing.
    blocked: bool,
    last_answer: Instant,
    limit: Duration,
    next: u64,
    confirms: FuturesUnordered<BoxFuture<'static, (u64, lapin::Result<Confirmation>)>>,
    pending: HashMap<u64, Pending>,
    /// Confirmed or refused, but a `basic.return` may still be in flight.
    unresolved: Vec<(u64, bool)>,
    /// Returned messages, each with the number of the first publish after its return.
    returned: Vec<(MessageKey, u64)>,
}

impl<'a> PublishSession<'a> {
    fn new(
        channel: Channel,
        connection: &'a Connection,
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
            pending: HashMap::new(),
            unresolved: Vec::new(),
            returned: Vec::new(),
        }
    }

    /// Publishes until all handles are dropped, the channel is stale or an error occurs. Dropping the reply channel
    /// of a pending message tells its caller that the result is unknown.
    async fn run(mut self, jobs: &mut mpsc::Receiver<PublishJob>) -> Result<End, BrokerError> {
        let connection = self.connection;
        let result = tokio::select! {
            biased;
            result = self.serve(jobs) => result,
            error = gone("publish", connection) => Err(error),
        };
        for (_, pending) in self.pending.drain() {
            pending.answer(Err(PublishError::Unknown), self.metrics);
        }
        self.state.set_blocked(false);
        result
    }

    async fn serve(&mut self, jobs: &mut mpsc::Receiver<PublishJob>) -> Result<End, BrokerError> {
        let mut open = true;
        let mut health = interval(CHECK_INTERVAL.min(self.limit));
        health.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while open || !self.pending.is_empty() {
            if self.stale_since.is_none() && self.refusals.take_due() {
                info!("broker refuses all messages to a queue on this channel; opening a new channel");
                self.stale_since = Some(Instant::now());
            }
            let stale = self.stale_since.map(|since| since.elapsed());
            // While the broker blocks this connection, no channel can be closed or opened on it.
            if !self.blocked && stale.is_some_and(|stale| self.pending.is_empty() || stale >= STALE_MAX) {
                return Ok(End::Stale);
            }
            tokio::select! {
                biased;
                _ = health.tick() => self.check_health().await?,
                Some((id, confirmation)) = self.confirms.next() => self.handle_confirm(id, confirmation).await?,
                job = jobs.recv(), if open && stale.is_none() && !self.blocked && self.pending.len() < OUTSTANDING_MAX => match job {
                    // The caller has given up, and its delivery is requeued.
                    Some(job) if job.reply.is_closed() => {}
                    Some(job) => self.publish(job).await?,
                    None => open = false,
                },
            }
        }
        Ok(End::Abandoned)
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
            let select = channel.confirm_select(ConfirmSelectOptions::default());
            self.await_reply("select confirms", select).await?;
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
    fn is_blocked(&mut self) -> Result<bool, BrokerError> {
        if !self.channel.status().connected() {
            return Err(BrokerError::Ended("the channel was closed".to_owned()));
        }
        let blocked = self.connection.status().blocked();
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
    fn restart_time_limits(&mut self) {
        let now = Instant::now();
        self.last_answer = now;
        self.pending.values_mut().for_each(|pending| pending.deadline = now + self.limit);
    }

    /// Waits for `action`, at most for the limit, not counting blocked time. lapin writes nothing while the broker
    /// blocks, and a new connection would be blocked too. If the connection ends, [`PublishSession::run`] ends this
    /// wait.
    async fn await_reply<T>(
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

    async fn publish(&mut self, job: PublishJob) -> Result<(), BrokerError> {
        let Publication { exchange, routing_key, properties, body } = job.publication;
        let key = MessageKey::of(&exchange, &routing_key, &properties);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let id = self.next;
        self.next += 1;
        let since = Instant::now();
        self.pending.insert(
            id,
            Pending { key, delivery: job.delivery, since, deadline: since + self.limit, reply: job.reply },
        );
        let channel = self.channel.clone();
        let publish =
            channel.basic_publish(short(&exchange), short(&routing_key), options, &body, properties);
        fault::point("publish", "asked");
        let confirm = self.await_reply("publish", publish).await?;
        fault::point("publish", "sent");
        self.confirms.push(confirm.map(move |confirmation| (id, confirmation)).boxed());
        Ok(())
    }

    /// Processes a confirm and any that arrived with it; resolves those whose returns can no longer arrive.
    async fn handle_confirm(
        &mut self,
        id: u64,
        confirmation: lapin::Result<Confirmation>,
    ) -> Result<(), BrokerError> {
        self.record_confirm(id, confirmation)?;
        self.record_ready_confirms()?;
        let mut resolvable = self.unresolved.len();
        if !self.confirms.is_empty() {
            // A return may still be in flight with a confirm that lapin is settling right now. The reply to a request
            // sent now arrives after that return.
            let channel = self.channel.clone();
            let select = channel.confirm_select(ConfirmSelectOptions::default());
            self.await_reply("select confirms", select).await?;
            self.record_ready_confirms()?;
        }
        if self.confirms.is_empty() {
            // No outstanding confirm could carry a return. Otherwise the next confirm resolves the rest.
            resolvable = self.unresolved.len();
        }
        self.resolve(resolvable);
        // A return cannot refer to messages published before the oldest pending one.
        let oldest = self.pending.keys().min().copied().unwrap_or(u64::MAX);
        self.returned.retain(|(_, before)| *before > oldest);
        if let Some(delivery) = self.missing.take() {
            self.redeclare(&delivery).await?;
            // Confirms that arrived meanwhile were not processed, so their time limits restart.
            self.record_ready_confirms()?;
            self.restart_time_limits();
        }
        Ok(())
    }

    /// Redeclares what this program declares and somebody deleted. Nothing else is published before, so a retry finds
    /// the queue.
    async fn redeclare(&mut self, delivery: &Span) -> Result<(), BrokerError> {
        warn!(parent: delivery, "queue or binding missing; redeclaring topology");
        let (topology, connection) = (self.topology, self.connection);
        topology.invalidate();
        let mut ensured = pin!(topology.ensure(connection, self.limit));
        loop {
            match timeout(CHECK_INTERVAL, &mut ensured).await {
                Ok(Ok(())) => {
                    topology.notify_redeclared();
                    // The channel still refers to the deleted queue. The broker confirms nothing on it that goes to
                    // the new queue of the same name.
                    self.stale_since = Some(Instant::now());
                    return Ok(());
                }
                Ok(Err(error)) => {
                    warn!(parent: delivery, %error, "failed to redeclare topology");
                    return Ok(());
                }
                Err(_) => _ = self.is_blocked()?,
            }
        }
    }

    fn record_ready_confirms(&mut self) -> Result<(), BrokerError> {
        while let Some(Some((id, confirmation))) = self.confirms.next().now_or_never() {
            self.record_confirm(id, confirmation)?;
        }
        Ok(())
    }

    fn record_confirm(
        &mut self,
        id: u64,
        confirmation: lapin::Result<Confirmation>,
    ) -> Result<(), BrokerError> {
        let (acked, returned) = match confirmation.map_err(|error| BrokerError::Lapin("confirm", error))? {
            Confirmation::Ack(returned) => (true, returned),
            Confirmation::Nack(returned) => (false, returned),
            // Occurs only without confirms, and they are always selected.
            Confirmation::NotRequested => (false, None),
        };
        self.unresolved.push((id, acked));
        self.last_answer = Instant::now();
        self.returned.extend(returned.as_ref().map(|returned| (returned_key(returned), self.next)));
        Ok(())
    }

    /// Replies to the callers of the first `count` unresolved messages.
    fn resolve(&mut self, count: usize) {
        for (id, acked) in self.unresolved.drain(..count) {
            let Some(pending) = self.pending.remove(&id) else { continue };
            // Messages with equal keys can't be told apart: if one was returned, none of them counts as delivered.
            let returned = self.returned.iter().any(|(key, before)| id < *before && *key == pending.key);
            let result = match (returned, acked) {
                (true, _) => {
                    // This program declares queues only if topology.declare is "create".
                    if self.topology.creates() {
                        self.missing = Some(pending.delivery.clone());
                    } else if pending.key.exchange.is_empty()
                        && self.reported.insert(pending.key.routing_key.clone())
                    {
                        let queue = &pending.key.routing_key;
                        warn!(parent: &pending.delivery, queue, "queue missing; declare it with `instant-connect-worker topology --declare`");
                    }
                    Err(PublishError::Unroutable)
                }
                (false, true) => Ok(()),
                (false, false) => Err(PublishError::Nacked),
            };
            match result {
                Ok(()) => self.refusals.record(&pending.key, true),
                Err(PublishError::Nacked) => self.refusals.record(&pending.key, false),
                Err(_) => {}
            }
            fault::point("publish", "confirmed");
            pending.answer(result, self.metrics);
        }
    }
}

fn returned_key(returned: &BasicReturnMessage) -> MessageKey {
    MessageKey::of(returned.exchange.as_str(), returned.routing_key.as_str(), &returned.properties)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(routing_key: &str) -> MessageKey {
        MessageKey { exchange: "links".to_owned(), routing_key: routing_key.to_owned(), message_id: None }
    }

    #[tokio::test(start_paused = true)]
    async fn channel_refusing_a_route_is_replaced_after_growing_waits() {
        let (sms, whatsapp) = (key("guest.sms"), key("guest.whatsapp"));
        let mut refusals = Refusals::default();
        for seconds in [1, 2, 4, 8, 16, 32, 64, 64] {
            refusals.reset();
            assert!(!refusals.take_due(), "the new channel refused nothing");
            refusals.record(&whatsapp, true);
            refusals.record(&sms, false);
            tokio::time::advance(Duration::from_millis(seconds * 1000 - 1)).await;
            refusals.record(&sms, false);
            assert!(!refusals.take_due());
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(refusals.take_due());
        }
        refusals.reset();
        refusals.record(&sms, true);
        refusals.reset();
        refusals.record(&sms, false);
        tokio::time::advance(REFUSING).await;
        assert!(refusals.take_due(), "the route delivered in between");
    }

    #[tokio::test(start_paused = true)]
    async fn channel_that_ever_delivered_on_a_route_is_kept() {
        for replies in [[true, false], [false, true]] {
            let mut refusals = Refusals::default();
            for delivered in replies {
                refusals.record(&key("guest.sms"), delivered);
            }
            tokio::time::advance(REFUSING_MAX).await;
            assert!(!refusals.take_due(), "{replies:?}");
        }
    }
}
