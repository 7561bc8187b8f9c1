//! Channels of the worker: declarations, and messages with their confirms.

use std::{
    collections::VecDeque,
    future::pending,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use instant_connect_worker::broker::{
    port::{BrokerChannel, Confirmation, MessageKey, Peer},
    publisher::Publication,
    topology::{Argument, Binding, Depth, Exchange},
};
use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPSoftError};
use tokio::{sync::oneshot, task::unconstrained, time::sleep};

use super::{
    SimulatedQueues,
    connection::{Wire, broken},
    publishing,
    topology::Refused,
};
use crate::world::Part;

#[derive(Clone)]
pub(crate) struct SimulatedChannel {
    pub(super) wire: Arc<Wire>,
    state: Arc<ChannelState>,
}

#[derive(Default)]
struct ChannelState {
    /// A number that the broker gave to nothing before.
    opened: u64,
    closed: AtomicBool,
    confirms: Mutex<Confirms>,
}

/// The confirms of a channel on their way to the worker.
#[derive(Default)]
struct Confirms {
    /// Returned messages that arrived at the worker. lapin gives each to the next confirm, whichever message that is for.
    returned: VecDeque<MessageKey>,
    /// Replies that the broker sends together.
    ready: Vec<(oneshot::Sender<Confirmation>, bool)>,
    /// Messages without a reply.
    unanswered: Vec<oneshot::Sender<Confirmation>>,
}

/// The error for a refusal of the broker.
pub(super) fn refused((code, text): Refused) -> lapin::Error {
    let kind = if code == 404 { AMQPSoftError::NOTFOUND } else { AMQPSoftError::PRECONDITIONFAILED };
    lapin::ErrorKind::ProtocolError(AMQPError::new(AMQPErrorKind::Soft(kind), text.into())).into()
}

impl SimulatedChannel {
    pub(super) async fn open(wire: &Arc<Wire>) -> lapin::Result<Self> {
        let opened = wire.life.world.lock().broker().number();
        let channel = Self {
            wire: Arc::clone(wire),
            state: Arc::new(ChannelState { opened, ..ChannelState::default() }),
        };
        channel.request(|_| Ok(())).await?;
        Ok(channel)
    }

    /// True if the broker confirms nothing to `queue` on this channel, because it was deleted and declared again.
    pub(super) fn is_stale_for(&self, broker: &SimulatedQueues, queue: &str) -> bool {
        broker.topology.deleted_since(queue, self.state.opened)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.closed.load(Ordering::Relaxed)
    }

    fn confirms(&self) -> MutexGuard<'_, Confirms> {
        self.state.confirms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request and waits for the broker's reply. A refusal closes the channel. If the connection breaks, lapin
    /// reports that, or nothing.
    async fn request<T>(
        &self,
        act: impl FnOnce(&mut Part<'_, SimulatedQueues>) -> Result<T, Refused>,
    ) -> lapin::Result<T> {
        let life = &self.wire.life;
        self.wire.writable().await;
        if self.is_gone() {
            return Err(broken());
        }
        let wait = match life.world.lock().random.u32(..40) {
            0 => 200,
            1..10 => 2,
            _ => 0,
        };
        if wait > 0 {
            sleep(Duration::from_millis(wait)).await;
        }
        if life.is_over() {
            pending::<()>().await;
        }
        if self.wire.is_cut() {
            if life.world.lock().random.bool() {
                pending::<()>().await;
            }
            self.wire.gone().await;
            return Err(broken());
        }
        let done = act(&mut life.world.lock().broker());
        done.map_err(|refusal| {
            self.state.closed.store(true, Ordering::Relaxed);
            refused(refusal)
        })
    }

    /// Returns a message to the worker. RabbitMQ confirms it with the next confirms that it sends.
    pub(super) fn give_back(&self, publication: &Publication, confirm: oneshot::Sender<Confirmation>) {
        let Publication { exchange, routing_key, properties, .. } = publication;
        self.confirms().returned.push_back(MessageKey::of(exchange, routing_key, properties));
        self.answer(confirm, true);
    }

    /// Never replies to a message.
    pub(super) fn leave(&self, confirm: oneshot::Sender<Confirmation>) {
        self.confirms().unanswered.push(confirm);
    }

    /// Replies to a message, at once or later, together with all other replies.
    pub(super) fn answer(&self, confirm: oneshot::Sender<Confirmation>, acked: bool) {
        self.confirms().ready.push((confirm, acked));
        let late = self.wire.life.world.lock().random.u32(..60);
        if late < 10 {
            return self.flush();
        }
        let channel = self.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(late.into())).await;
            channel.flush();
        });
    }

    fn flush(&self) {
        if self.wire.is_cut() || self.is_closed() {
            return;
        }
        let mut confirms = self.confirms();
        let mut ready = std::mem::take(&mut confirms.ready);
        // lapin settles what one acknowledgement confirms in any order.
        self.wire.life.world.lock().random.shuffle(&mut ready);
        for (confirm, acked) in ready {
            let returned = confirms.returned.pop_front();
            // The worker may have given up.
            _ = confirm.send(Confirmation { acked, returned });
        }
    }
}

impl Peer for SimulatedChannel {
    fn is_gone(&self) -> bool {
        self.is_closed() || self.wire.is_gone()
    }

    async fn closed(&self) {
        if !self.is_closed() {
            self.wire.gone().await;
        }
    }
}

impl BrokerChannel for SimulatedChannel {
    async fn declare_exchange(&self, exchange: &Exchange, passive: bool) -> lapin::Result<()> {
        self.request(|broker| broker.topology.declare_exchange(exchange, passive)).await
    }

    async fn declare_queue(
        &self,
        name: &str,
        arguments: &[(&'static str, Argument)],
        passive: bool,
    ) -> lapin::Result<Depth> {
        self.request(|broker| {
            let existed = broker.topology.has_queue(name);
            broker.topology.declare_queue(name, arguments, passive)?;
            if !existed {
                broker.common.log(format_args!("{name} is declared"));
            }
            let ready = broker.ready.get(name).map_or(0, VecDeque::len);
            Ok(Depth {
                ready: u32::try_from(ready).unwrap_or(u32::MAX),
                consumers: u32::try_from(broker.consumers(name)).unwrap_or(u32::MAX),
            })
        })
        .await
    }

    async fn bind(&self, binding: &Binding) -> lapin::Result<()> {
        self.wire.life.point("binding a queue").await;
        self.request(|broker| broker.topology.bind(binding)).await
    }

    async fn select_confirms(&self) -> lapin::Result<()> {
        self.request(|_| Ok(())).await
    }

    fn publish(&self, publication: Publication) -> BoxFuture<'static, lapin::Result<Confirmation>> {
        let channel = self.clone();
        Box::pin(async move {
            let life = &channel.wire.life;
            life.point("before a publish").await;
            if channel.is_gone() {
                return Err(broken());
            }
            {
                let mut state = life.world.lock();
                let rule = state.checker.published(&publication);
                state.must(rule);
            }
            // A message that lapin has not written yet is out of the worker's hands.
            channel.wire.writable().await;
            let (confirm, answer) = oneshot::channel();
            tokio::spawn(publishing::publish(channel.clone(), publication, confirm));
            // Like lapin's confirms, not subject to the runtime's budget of polls.
            let answer = tokio::select! {
                biased;
                Ok(answer) = unconstrained(answer) => Ok(answer),
                () = channel.wire.gone() => Err(broken()),
            };
            life.point("at a confirm").await;
            answer
        })
    }

    async fn close(&self) -> lapin::Result<()> {
        let closed = self.request(|_| Ok(())).await;
        self.state.closed.store(true, Ordering::Relaxed);
        closed
    }
}
