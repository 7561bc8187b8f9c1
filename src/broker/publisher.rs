//! The one task that publishes. It keeps many confirms outstanding, and takes a message as delivered only when the
//! broker confirmed it and did not return it.
//!
//! Two traps of lapin shape this (measured, not guessed): a channel that several tasks publish on can attach a
//! confirm to the wrong message, so there is one task; and a returned message comes attached to *some* confirm that
//! the same or an earlier acknowledgement settles, so a confirm is believed only once every confirm that could carry
//! its return has been seen.

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
use tracing::{info, warn};

use super::{
    connection::{BrokerError, Connected, Connector, close, gone, within},
    properties::short,
    reconnect::ReconnectBackoff,
    topology::{Topology, TopologyError},
};
use crate::{
    fault,
    telemetry::metrics::{PublishMetrics, labels::Published},
};

/// Most messages that wait for their confirm at once.
const OUTSTANDING_MAX: usize = 1024;
/// Most messages that wait to be published.
const QUEUED_MAX: usize = 1024;
/// The share of `amqp.timeout` for which a confirm may be late while the channel confirms other messages.
const QUEUE_PATIENCE: u32 = 4;
/// How often it is looked at whether the broker blocks publishing.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long confirms are waited for on a channel that is to be used no more.
const WORN_MAX: Duration = Duration::from_secs(2);
/// How long a channel may refuse all that goes one way before there is a new one; twice as long each time that does not help.
const REFUSED: Duration = Duration::from_secs(1);
/// The longest of these times.
const REFUSED_MAX: Duration = Duration::from_secs(64);

/// One message to publish: persistent by its properties, and always mandatory.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The exchange, empty for the default one.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// Properties and headers.
    pub properties: BasicProperties,
    /// The body.
    pub body: Arc<[u8]>,
}

/// Why a message is not known to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, IntoStaticStr)]
#[strum(serialize_all = "kebab-case", const_into_str)]
pub enum PublishError {
    /// The broker returned it: no queue is bound for it.
    #[error("no queue is bound for it")]
    Unroutable,
    /// The broker refused it: a queue is full, or its leader is away.
    #[error("the broker refused it (is a queue full?)")]
    Nacked,
    /// The connection broke, or no confirm came in time: it may or may not have arrived.
    #[error("the connection to the broker broke before the confirm")]
    #[strum(serialize = "unconfirmed")]
    Unknown,
    /// The publisher has ended.
    #[error("the publisher has ended")]
    Ended,
}

impl PublishError {
    /// As in spans.
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
    pub(crate) reply: oneshot::Sender<Result<(), PublishError>>,
}

impl Publisher {
    /// Starts the task. It ends, with its connection, when all handles are gone and all replies are given.
    #[must_use]
    pub fn start(
        connector: Arc<Connector>,
        topology: Topology,
        metrics: PublishMetrics,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(QUEUED_MAX);
        (Self(sender), tokio::spawn(run(connector, topology, receiver, metrics)))
    }

    /// A publisher that leaves its jobs to whoever has the receiver.
    #[cfg(test)]
    pub(crate) fn simulated() -> (Self, mpsc::Receiver<PublishJob>) {
        let (sender, receiver) = mpsc::channel(QUEUED_MAX);
        (Self(sender), receiver)
    }

    /// Publishes, and waits for what the broker says. While there is no connection, this waits: the caller sets the limit.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(&self, publication: Publication) -> Result<(), PublishError> {
        let (reply, answer) = oneshot::channel();
        self.0.send(PublishJob { publication, reply }).await.map_err(|_| PublishError::Ended)?;
        answer.await.unwrap_or(Err(PublishError::Ended))
    }
}

async fn run(
    connector: Arc<Connector>,
    topology: Topology,
    mut jobs: mpsc::Receiver<PublishJob>,
    metrics: PublishMetrics,
) {
    let mut backoff = ReconnectBackoff::new(connector.reconnect_max);
    loop {
        let error = match open(&connector, &topology).await {
            Ok((connection, channel)) => {
                if let Some(took) = backoff.connected().filter(|took| !took.is_zero()) {
                    info!(after_ms = took.as_secs_f64() * 1e3, "publishing again");
                }
                let up = metrics.connection.up();
                let ended =
                    publish_on(&connection, channel, &connector, &topology, &mut jobs, &metrics).await;
                drop(up);
                if connection.status().connected() {
                    topology.doubt();
                }
                close(&connection).await;
                match ended {
                    Ok(()) => return,
                    Err(error) => error,
                }
            }
            Err(error) => {
                metrics.connection.failed();
                error
            }
        };
        metrics.connection.down(error.to_string());
        if backoff.failed(false, error.reason()) {
            warn!(%error, "cannot publish; trying again until it works");
        }
        tokio::select! {
            () = sleep(backoff.wait()) => {}
            () = abandoned(&jobs) => return,
        }
    }
}

/// Publishes on one channel of `connection` after the other, until nobody is left who could want it (`Ok`) or something breaks.
async fn publish_on(
    connection: &Connected,
    mut channel: Channel,
    connector: &Connector,
    topology: &Topology,
    jobs: &mut mpsc::Receiver<PublishJob>,
    metrics: &PublishMetrics,
) -> Result<(), TopologyError> {
    let limit = connector.timeout;
    let mut refusals = Refusals::default();
    loop {
        let session =
            PublishSession::new(channel.clone(), connection, topology, limit, metrics, &mut refusals);
        match session.run(jobs).await.map_err(TopologyError::Broker)? {
            End::Abandoned => return Ok(()),
            End::Worn => {}
        }
        let close = channel.close(200, "bye".into());
        within("close channel", limit, connection, close).await.map_err(TopologyError::Broker)?;
        channel = prepare(connection, topology, limit).await?;
    }
}

/// Resolves when nobody is left who could want something published.
async fn abandoned(jobs: &mpsc::Receiver<PublishJob>) {
    while !(jobs.sender_strong_count() == 0 && jobs.is_empty()) {
        sleep(Duration::from_millis(50)).await;
    }
}

async fn open(connector: &Connector, topology: &Topology) -> Result<(Connected, Channel), TopologyError> {
    let connection = connector.connect("publish").await.map_err(TopologyError::Broker)?;
    match prepare(&connection, topology, connector.timeout).await {
        Ok(channel) => Ok((connection, channel)),
        Err(error) => {
            // Dropping it is not enough: what lapin still waits for keeps it open.
            close(&connection).await;
            Err(error)
        }
    }
}

/// A channel that confirms, of a connection on which all is declared.
async fn prepare(
    connection: &Connected,
    topology: &Topology,
    limit: Duration,
) -> Result<Channel, TopologyError> {
    topology.ensure(connection, limit).await?;
    let channel = within("open channel", limit, connection, connection.create_channel())
        .await
        .map_err(TopologyError::Broker)?;
    let select = channel.confirm_select(ConfirmSelectOptions::default());
    within("select confirms", limit, connection, select).await.map_err(TopologyError::Broker)?;
    Ok(channel)
}

/// What tells returned messages apart.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_field_names, reason = "a routing key is called so")]
struct Key {
    exchange: String,
    routing_key: String,
    message_id: Option<String>,
}

impl Key {
    fn of(exchange: &str, routing_key: &str, properties: &BasicProperties) -> Self {
        let message_id = properties.message_id().as_ref().map(|id| id.as_str().to_owned());
        Self { exchange: exchange.to_owned(), routing_key: routing_key.to_owned(), message_id }
    }
}

struct Pending {
    key: Key,
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
        // Whoever asked may be gone; then nobody needs the answer.
        _ = self.reply.send(result);
    }
}

/// The ways that a channel refuses. A RabbitMQ channel asks a quorum queue's leader whether it takes messages when it publishes
/// to it first. Where that leader's node died a moment ago, it never asks another one: everything that goes this way is refused
/// for as long as the channel lasts (seen on 3.10). A queue that is full looks the same, and then a new channel changes nothing.
#[derive(Debug, Default)]
struct Refusals {
    /// The ways on which the channel delivered.
    taken: HashSet<Way>,
    /// The others on which it refused, and since when.
    refused: HashMap<Way, Instant>,
    /// After how long a channel that refuses this way is given up, where it was before and did not help.
    waits: HashMap<Way, Duration>,
}

/// An exchange and a routing key.
type Way = (String, String);

impl Refusals {
    /// There is a new channel.
    fn begin(&mut self) {
        self.taken.clear();
        self.refused.clear();
    }

    /// What the broker said of a message.
    fn heard(&mut self, key: &Key, taken: bool) {
        let way = (key.exchange.clone(), key.routing_key.clone());
        if self.taken.contains(&way) {
            return;
        }
        if taken {
            self.refused.remove(&way);
            self.waits.remove(&way);
            self.taken.insert(way);
        } else {
            self.refused.entry(way).or_insert_with(Instant::now);
        }
    }

    /// Whether it is time for a new channel. If it is, the next one is given more time.
    fn take_due(&mut self) -> bool {
        let waits = &mut self.waits;
        let due = self.refused.iter().find_map(|(way, since)| {
            let wait = *waits.get(way).unwrap_or(&REFUSED);
            (since.elapsed() >= wait).then(|| (way.clone(), (wait * 2).min(REFUSED_MAX)))
        });
        let is_due = due.is_some();
        waits.extend(due);
        is_due
    }
}

/// How a channel's life ended where nothing broke.
enum End {
    /// Nobody is left who could want something published.
    Abandoned,
    /// What is published next needs a new channel.
    Worn,
}

/// One channel's life.
struct PublishSession<'a> {
    channel: Channel,
    connection: &'a Connection,
    topology: &'a Topology,
    metrics: &'a PublishMetrics,
    refusals: &'a mut Refusals,
    /// Since when the channel may not be used for further messages.
    worn_since: Option<Instant>,
    /// A queue of our own, or where we declare them a binding or a queue of the links, was found missing.
    missing: bool,
    /// The broker takes no publishes at the moment.
    blocked: bool,
    last_answer: Instant,
    limit: Duration,
    next: u64,
    confirms: FuturesUnordered<BoxFuture<'static, (u64, lapin::Result<Confirmation>)>>,
    pending: HashMap<u64, Pending>,
    /// Answered by the broker, not yet believed.
    answered: Vec<(u64, bool)>,
    /// Returned messages, each with the number of the publish that came after it at the earliest.
    returned: Vec<(Key, u64)>,
}

impl<'a> PublishSession<'a> {
    fn new(
        channel: Channel,
        connection: &'a Connection,
        topology: &'a Topology,
        limit: Duration,
        metrics: &'a PublishMetrics,
        refusals: &'a mut Refusals,
    ) -> Self {
        refusals.begin();
        Self {
            channel,
            connection,
            topology,
            metrics,
            refusals,
            worn_since: None,
            missing: false,
            blocked: false,
            last_answer: Instant::now(),
            limit,
            next: 0,
            confirms: FuturesUnordered::new(),
            pending: HashMap::new(),
            answered: Vec::new(),
            returned: Vec::new(),
        }
    }

    /// Publishes until all handles are gone, the channel is worn or something breaks. Whoever waits then is told that the outcome is
    /// unknown: dropping a reply does that.
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
        self.metrics.set_blocked(false);
        result
    }

    async fn serve(&mut self, jobs: &mut mpsc::Receiver<PublishJob>) -> Result<End, BrokerError> {
        let mut open = true;
        let mut health = interval(LOOK_EVERY.min(self.limit));
        health.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while open || !self.pending.is_empty() {
            if self.worn_since.is_none() && self.refusals.take_due() {
                info!("the broker refuses all messages to a queue on this channel; trying a new one");
                self.worn_since = Some(Instant::now());
            }
            let worn = self.worn_since.map(|since| since.elapsed());
            // While the broker blocks, nothing could be closed or opened on this connection.
            if !self.blocked && worn.is_some_and(|worn| self.pending.is_empty() || worn >= WORN_MAX) {
                return Ok(End::Worn);
            }
            tokio::select! {
                biased;
                _ = health.tick() => self.check_health().await?,
                Some((id, confirmation)) = self.confirms.next() => self.answer(id, confirmation).await?,
                job = jobs.recv(), if open && worn.is_none() && !self.blocked && self.pending.len() < OUTSTANDING_MAX => match job {
                    // Nobody waits for it any more; its delivery is with the broker again.
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
        if self.confirms.len() > 2 * OUTSTANDING_MAX {
            return Err(BrokerError::Timeout("confirm", self.limit));
        }
        // A channel that answers nothing is gone. On one that answers, a missing confirm is one queue's trouble.
        if now - self.last_answer >= self.limit / 2 {
            let channel = self.channel.clone();
            let select = channel.confirm_select(ConfirmSelectOptions::default());
            self.patiently("select confirms", select).await?;
            self.last_answer = Instant::now();
        }
        // A queue whose leader is away confirms late. As long as the channel stands, a second publish would be a second message.
        let late = self.limit * (QUEUE_PATIENCE - 1);
        for id in overdue {
            if self.pending.get(&id).is_some_and(|pending| pending.deadline + late <= now)
                && let Some(pending) = self.pending.remove(&id)
            {
                pending.answer(Err(PublishError::Unknown), self.metrics);
            }
        }
        Ok(())
    }

    /// Whether the broker blocks publishing, which is told and shown. The time for which it does is not counted against any
    /// confirm.
    fn is_blocked(&mut self) -> Result<bool, BrokerError> {
        if !self.channel.status().connected() {
            return Err(BrokerError::Ended("the channel was closed".to_owned()));
        }
        let blocked = self.connection.status().blocked();
        self.metrics.set_blocked(blocked);
        match (std::mem::replace(&mut self.blocked, blocked), blocked) {
            (false, true) => warn!(
                "the broker blocks publishing (memory or disk alarm); nothing is published until it is over"
            ),
            (true, false) => info!("the broker takes publishes again"),
            _ => {}
        }
        if blocked {
            self.begin_limits_anew();
        }
        Ok(blocked)
    }

    /// The time until now is not counted against any confirm.
    fn begin_limits_anew(&mut self) {
        let now = Instant::now();
        self.last_answer = now;
        self.pending.values_mut().for_each(|pending| pending.deadline = now + self.limit);
    }

    /// Waits for `action`, but for the time for which the broker blocks publishing no longer than the limit: lapin writes
    /// nothing meanwhile, and a connection in this one's place would be blocked as well. Where this one ends,
    /// [`PublishSession::run`] does.
    async fn patiently<T>(
        &mut self,
        step: &'static str,
        action: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        let mut action = pin!(action);
        let mut until = Instant::now() + self.limit;
        loop {
            let look = LOOK_EVERY.min(until.saturating_duration_since(Instant::now()));
            if let Ok(result) = timeout(look, &mut action).await {
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
        let key = Key::of(&exchange, &routing_key, &properties);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let id = self.next;
        self.next += 1;
        let since = Instant::now();
        self.pending.insert(id, Pending { key, since, deadline: since + self.limit, reply: job.reply });
        let channel = self.channel.clone();
        let publish =
            channel.basic_publish(short(&exchange), short(&routing_key), options, &body, properties);
        fault::point("publish", "asked");
        let confirm = self.patiently("publish", publish).await?;
        fault::point("publish", "sent");
        self.confirms.push(confirm.map(move |confirmation| (id, confirmation)).boxed());
        Ok(())
    }

    /// Takes in one confirm and all that have come with it, and replies to those that can be believed.
    async fn answer(
        &mut self,
        id: u64,
        confirmation: lapin::Result<Confirmation>,
    ) -> Result<(), BrokerError> {
        self.take_in(id, confirmation)?;
        self.take_in_ready()?;
        let mut believable = self.answered.len();
        if !self.confirms.is_empty() {
            // A return may still be on its way with a confirm that lapin is settling at this moment. An answer to a
            // question asked now comes after it.
            let channel = self.channel.clone();
            let select = channel.confirm_select(ConfirmSelectOptions::default());
            self.patiently("select confirms", select).await?;
            self.take_in_ready()?;
        }
        if self.confirms.is_empty() {
            // No confirm is left that could carry a return. Otherwise one is to come, and with it the rest's turn.
            believable = self.answered.len();
        }
        self.believe(believable);
        // What was published before the oldest that is left can't be meant any more.
        let oldest = self.pending.keys().min().copied().unwrap_or(u64::MAX);
        self.returned.retain(|(_, before)| *before > oldest);
        if std::mem::take(&mut self.missing) {
            self.declare_again().await?;
            // What came meanwhile was not looked at, and its time is not over.
            self.take_in_ready()?;
            self.begin_limits_anew();
        }
        Ok(())
    }

    /// What is this program's own, and somebody deleted, is made again: before anything else is published, so that what is
    /// tried again finds it.
    async fn declare_again(&mut self) -> Result<(), BrokerError> {
        warn!("a queue or a binding of our own is missing; declaring it again");
        let (topology, connection) = (self.topology, self.connection);
        topology.doubt();
        let mut ensured = pin!(topology.ensure(connection, self.limit));
        loop {
            match timeout(LOOK_EVERY, &mut ensured).await {
                Ok(Ok(())) => {
                    topology.tell_declared_again();
                    // The channel took part in what the deleted queue was, and the broker confirms nothing on it that goes to the
                    // queue of the same name.
                    self.worn_since = Some(Instant::now());
                    return Ok(());
                }
                Ok(Err(error)) => {
                    warn!(%error, "it could not be declared");
                    return Ok(());
                }
                Err(_) => _ = self.is_blocked()?,
            }
        }
    }

    fn take_in_ready(&mut self) -> Result<(), BrokerError> {
        while let Some(Some((id, confirmation))) = self.confirms.next().now_or_never() {
            self.take_in(id, confirmation)?;
        }
        Ok(())
    }

    fn take_in(&mut self, id: u64, confirmation: lapin::Result<Confirmation>) -> Result<(), BrokerError> {
        let (acked, returned) = match confirmation.map_err(|error| BrokerError::Lapin("confirm", error))? {
            Confirmation::Ack(returned) => (true, returned),
            Confirmation::Nack(returned) => (false, returned),
            // Only without confirms, which are always selected.
            Confirmation::NotRequested => (false, None),
        };
        self.answered.push((id, acked));
        self.last_answer = Instant::now();
        self.returned.extend(returned.as_ref().map(|returned| (returned_key(returned), self.next)));
        Ok(())
    }

    /// Replies to the first `count` that were answered.
    fn believe(&mut self, count: usize) {
        for (id, acked) in self.answered.drain(..count) {
            let Some(pending) = self.pending.remove(&id) else { continue };
            // Messages of equal keys can't be told apart: if one was returned, none of them is taken as delivered.
            let returned = self.returned.iter().any(|(key, before)| id < *before && *key == pending.key);
            let result = match (returned, acked) {
                (true, _) => {
                    // This program declares queues only with `topology.declare = "create"`.
                    self.missing |= self.topology.creates();
                    Err(PublishError::Unroutable)
                }
                (false, true) => Ok(()),
                (false, false) => Err(PublishError::Nacked),
            };
            match result {
                Ok(()) => self.refusals.heard(&pending.key, true),
                Err(PublishError::Nacked) => self.refusals.heard(&pending.key, false),
                Err(_) => {}
            }
            fault::point("publish", "confirmed");
            pending.answer(result, self.metrics);
        }
    }
}

fn returned_key(returned: &BasicReturnMessage) -> Key {
    Key::of(returned.exchange.as_str(), returned.routing_key.as_str(), &returned.properties)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(routing_key: &str) -> Key {
        Key { exchange: "links".to_owned(), routing_key: routing_key.to_owned(), message_id: None }
    }

    #[tokio::test(start_paused = true)]
    async fn channel_that_refuses_all_that_goes_one_way_is_given_up_ever_later() {
        let (sms, whatsapp) = (key("guest.sms"), key("guest.whatsapp"));
        let mut refusals = Refusals::default();
        for seconds in [1, 2, 4, 8, 16, 32, 64, 64] {
            refusals.begin();
            assert!(!refusals.take_due(), "nothing was refused on the new one");
            refusals.heard(&whatsapp, true);
            refusals.heard(&sms, false);
            tokio::time::advance(Duration::from_millis(seconds * 1000 - 1)).await;
            refusals.heard(&sms, false);
            assert!(!refusals.take_due());
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(refusals.take_due());
        }
        refusals.begin();
        refusals.heard(&sms, true);
        refusals.begin();
        refusals.heard(&sms, false);
        tokio::time::advance(REFUSED).await;
        assert!(refusals.take_due(), "it was delivered to in between");
    }

    #[tokio::test(start_paused = true)]
    async fn channel_that_delivered_there_before_or_later_is_kept() {
        for heard in [[true, false], [false, true]] {
            let mut refusals = Refusals::default();
            for taken in heard {
                refusals.heard(&key("guest.sms"), taken);
            }
            tokio::time::advance(REFUSED_MAX).await;
            assert!(!refusals.take_due(), "{heard:?}");
        }
    }
}
