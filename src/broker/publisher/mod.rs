//! The one task that publishes. It keeps many confirms outstanding. A message counts as delivered only when the
//! broker has confirmed it and not returned it.
//!
//! Two properties of lapin shape this task (measured, not guessed). First, a channel on which several tasks publish
//! can attach a confirm to the wrong message, so there is one task. Second, a returned message arrives attached to
//! *some* confirm that the same or an earlier acknowledgement settles. So a confirm counts only after every confirm
//! that could carry its return has been seen.
//!
//! - `task`: keeps the connection and its channels
//! - `session`: publishes on one channel; `confirms`: believes its confirms
//! - `pending`: messages without a reply
//! - `refusals`: routes on which a channel must be replaced

mod confirms;
mod pending;
mod refusals;
mod session;
mod task;

use std::{
    future::{Future, pending},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::{Either, select};
use lapin::BasicProperties;
use strum::IntoStaticStr;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    task::JoinHandle,
};
use tracing::Span;

use task::PublishTask;

use super::{
    port::Broker,
    supervisor::supervise,
    topology::{Topology, TopologyError},
};
use crate::{random::Random, state::PublishState, telemetry::metrics::PublishMetrics};

/// Maximum number of messages that wait to be published.
const QUEUED_MAX: usize = 1024;

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

/// The messages that wait to be published.
pub type PublishJobs = mpsc::Receiver<PublishJob>;

/// A message that its publisher has not taken yet.
#[derive(Debug)]
pub struct PublishJob {
    pub publication: Publication,
    /// Span of the delivery that the message belongs to, for log lines.
    pub delivery: Span,
    pub reply: oneshot::Sender<Result<(), PublishError>>,
    /// Held until the message has a reply or is dropped, also if its caller has given up.
    pub room: Option<OwnedSemaphorePermit>,
    pub turn: PublishTurn,
}

/// Decides if a message is published or withdrawn. Publisher and caller share it, and the first of them decides.
#[derive(Clone, Debug, Default)]
pub struct PublishTurn(Arc<AtomicBool>);

impl PublishTurn {
    /// True for the first of publisher and caller.
    #[must_use]
    pub fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

impl Publisher {
    /// Starts the task. The task ends, with its connection, when all handles are dropped and all replies are sent. It fails if its
    /// first connection shows that the topology does not match. `random` spreads its reconnects.
    #[must_use]
    pub fn start(
        broker: Arc<impl Broker>,
        topology: Topology,
        state: PublishState,
        metrics: PublishMetrics,
        random: Random,
    ) -> (Self, JoinHandle<Result<(), TopologyError>>) {
        let (publisher, jobs) = Self::queue();
        let wait_max = broker.limits().reconnect_max;
        let mut task = PublishTask { broker, topology, jobs, state, metrics };
        let publishing = async move { supervise(&mut task, wait_max, random).await };
        (publisher, tokio::spawn(publishing))
    }

    /// A handle, and the jobs that its users give to it.
    #[must_use]
    pub fn queue() -> (Self, PublishJobs) {
        let (sender, jobs) = mpsc::channel(QUEUED_MAX);
        (Self(sender), jobs)
    }

    /// Publishes and waits for the broker's confirm. Without a connection this waits; the caller sets the time limit.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(&self, publication: Publication) -> Result<(), PublishError> {
        self.publish_in(publication, None).await
    }

    /// As [`Publisher::publish`], but withdraws the message if `gone` resolves before the publisher takes it. After that, the broker
    /// may store the message, so its result is still awaited.
    ///
    /// # Errors
    /// [`PublishError`].
    pub(super) async fn publish_unless(
        &self,
        publication: Publication,
        gone: impl Future<Output = ()>,
    ) -> Result<(), PublishError> {
        self.publish_job(publication, None, gone).await
    }

    /// As [`Publisher::publish`]. `room` is held while the message is in memory, also if the caller gives up.
    ///
    /// # Errors
    /// [`PublishError`].
    pub(crate) async fn publish_in(
        &self,
        publication: Publication,
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<(), PublishError> {
        self.publish_job(publication, room, pending()).await
    }

    /// Queues `job` for the publisher.
    ///
    /// # Errors
    /// [`PublishError::Ended`].
    pub async fn send(&self, job: PublishJob) -> Result<(), PublishError> {
        self.0.send(job).await.map_err(|_| PublishError::Ended)
    }

    async fn publish_job(
        &self,
        publication: Publication,
        room: Option<OwnedSemaphorePermit>,
        gone: impl Future<Output = ()>,
    ) -> Result<(), PublishError> {
        let (reply, answer) = oneshot::channel();
        let (delivery, turn) = (Span::current(), PublishTurn::default());
        let job = PublishJob { publication, delivery, reply, room, turn: turn.clone() };
        let answered = pin!(async {
            self.send(job).await?;
            answer.await.unwrap_or(Err(PublishError::Ended))
        });
        match select(answered, pin!(gone)).await {
            Either::Left((result, _)) => result,
            Either::Right(((), _)) if turn.take() => Err(PublishError::Unknown),
            Either::Right(((), answered)) => answered.await,
        }
    }
}
