//! Connections to the broker.

use std::{
    future::Future,
    ops::Deref,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use lapin::{Acker, Channel, Connection};
use secrecy::SecretString;
use tokio::time::{sleep, timeout};

use super::{
    greeting::Greeting,
    handshake::{self, Stranger},
    stream::Ender,
};
use crate::{
    config,
    endpoint::{
        Obstacle,
        broker_url::{self, Node, UrlRules},
        url::read_url_file,
    },
    masking::masked,
    tls::Connections,
};

/// For the broker's answer to a goodbye.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// The least `frame_max` that a broker may have: RabbitMQ's default. All properties of a message are one frame, and a copy carries
/// [`super::headers::COPIED_BYTES_MAX`] of the sender's beside our own.
pub(super) const FRAME_BYTES_MIN: u32 = 131_072;

/// Why the broker did not do what was asked. Shows no password.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// No answer in time.
    #[error("{0}: no answer within {1:?}")]
    Timeout(&'static str, Duration),
    /// lapin's or the broker's own error.
    #[error("{0}: {text}", text = masked(&.1.to_string()))]
    Lapin(&'static str, lapin::Error),
    /// The broker ended it, or it broke.
    #[error("{}", masked(.0))]
    Ended(String),
    /// The URL can't be read or used.
    #[error("{0}")]
    Url(String),
    /// There is no connection.
    #[error("connect: {0}")]
    Unreached(Obstacle),
    /// There is a connection, and something else than a broker at its end.
    #[error("connect: {0}")]
    Stranger(Stranger),
    /// The broker takes smaller frames than the copy of an event may need.
    #[error(
        "connect: the broker takes frames of {0} bytes at most, and the copy of an event may need {FRAME_BYTES_MIN}; set frame_max in its configuration to that or more"
    )]
    SmallFrames(u32),
    /// A file that TLS needs can't be used.
    #[error("connect: TLS: {}", masked(&.0.to_string()))]
    Tls(rustls::Error),
}

/// What two errors of one kind have in common, however their words differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No answer, at this step.
    Timeout(&'static str),
    /// The broker's reply code.
    Reply(u16),
    /// No connection.
    Unreached(Obstacle),
    /// No broker.
    Stranger(Stranger),
    /// A setting, or a file that one names.
    Setting,
    /// The broker's exchanges or queues.
    Topology,
    /// It broke, or was ended.
    Ended,
}

impl BrokerError {
    /// Whether lapin could not go on with what it read: a property that is not UTF-8, a frame that is too large or comes out of
    /// turn. On a connection that stood, that is a message, and it ends the next connection too.
    #[must_use]
    pub fn is_reading(&self) -> bool {
        // lapin raises the codes of frames, syntax, commands, channels and unexpected frames itself, in the broker's place.
        matches!(self, Self::Lapin(_, error) if matches!(error.kind(), lapin::ErrorKind::ParsingError(_)))
            || matches!(self.reply_code(), Some(501..=505))
    }

    /// Its kind.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Timeout(step, _) => Reason::Timeout(step),
            Self::Lapin(..) => self.reply_code().map_or(Reason::Ended, Reason::Reply),
            Self::Ended(_) => Reason::Ended,
            Self::Url(_) | Self::Tls(_) | Self::SmallFrames(_) => Reason::Setting,
            Self::Unreached(obstacle) => Reason::Unreached(*obstacle),
            Self::Stranger(stranger) => Reason::Stranger(*stranger),
        }
    }

    /// The reply code of the broker's error, such as 406, where it was one.
    #[must_use]
    pub fn reply_code(&self) -> Option<u16> {
        match self {
            Self::Lapin(_, error) => match error.kind() {
                lapin::ErrorKind::ProtocolError(error) => Some(error.get_id()),
                _ => None,
            },
            _ => None,
        }
    }
}

/// What answers come from, and what can be gone before they do.
pub trait Peer: Sync {
    /// Whether no answer can come any more.
    fn is_gone(&self) -> bool;
}

impl Peer for Connection {
    fn is_gone(&self) -> bool {
        !self.status().connected()
    }
}

impl Peer for Connected {
    fn is_gone(&self) -> bool {
        !self.status().connected()
    }
}

impl Peer for Channel {
    fn is_gone(&self) -> bool {
        !self.status().connected()
    }
}

impl Peer for Acker {
    fn is_gone(&self) -> bool {
        self.poisoned()
    }
}

/// Waits for `action` of `peer`: until it is answered, until the peer is gone, and `limit` at most. Whatever is asked of the
/// broker goes through this: lapin leaves what was asked while a connection broke without an answer now and then
/// (measured: a close, a confirm.select, acks).
///
/// # Errors
/// [`BrokerError`], which names the `step`.
pub async fn within<T>(
    step: &'static str,
    limit: Duration,
    peer: &impl Peer,
    action: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    tokio::select! {
        biased;
        result = timeout(limit, action) => match result {
            Ok(result) => result.map_err(|error| BrokerError::Lapin(step, error)),
            Err(_) => Err(BrokerError::Timeout(step, limit)),
        },
        error = gone(step, peer) => Err(error),
    }
}

/// Resolves when `peer` is gone, a little later: time enough for lapin to say why to whoever waits for it.
pub async fn gone(step: &'static str, peer: &impl Peer) -> BrokerError {
    while !peer.is_gone() {
        sleep(Duration::from_millis(100)).await;
    }
    sleep(Duration::from_millis(500)).await;
    BrokerError::Ended(format!("{step}: the connection was closed"))
}

/// A connection that stands, or did.
#[derive(Debug)]
pub struct Connected {
    connection: Connection,
    ender: Ender,
}

impl Connected {
    pub(super) const fn new(connection: Connection, ender: Ender) -> Self {
        Self { connection, ender }
    }
}

impl Deref for Connected {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

/// Makes connections, to one node of the cluster after the other.
#[derive(Debug)]
pub struct Connector {
    urls: Urls,
    rules: UrlRules,
    tls: Connections,
    connect_timeout: Duration,
    /// For any single answer of the broker.
    pub timeout: Duration,
    /// The longest wait between two tries.
    pub reconnect_max: Duration,
    /// How often queues and consumers are looked at.
    pub watch_interval: Duration,
    next: AtomicUsize,
    sieves: bool,
}

#[derive(Debug)]
enum Urls {
    Given(SecretString),
    File(PathBuf),
}

impl Connector {
    /// Connections as `config` says.
    #[must_use]
    pub fn new(config: &config::Config) -> Self {
        let amqp = &config.amqp;
        Self {
            urls: amqp.url_file.clone().map_or_else(|| Urls::Given(amqp.url.clone()), Urls::File),
            rules: amqp.url_rules(),
            tls: Connections::new(config.broker_tls()),
            connect_timeout: amqp.connect_timeout.get(),
            timeout: amqp.timeout.get(),
            reconnect_max: amqp.reconnect_max.get(),
            watch_interval: amqp.watch_interval.get(),
            next: AtomicUsize::new(0),
            sieves: false,
        }
    }

    /// Connections that a message whose properties can't be read does not end: it comes without them (`is_unreadable`).
    #[must_use]
    pub fn sieving(self) -> Self {
        Self { sieves: true, ..self }
    }

    /// One try to connect, to the node after the one that was tried last. `purpose` shows in the broker's list of
    /// connections.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn connect(&self, purpose: &str) -> Result<Connected, BrokerError> {
        self.connect_to(self.next.fetch_add(1, Ordering::Relaxed), purpose).await
    }

    /// One try to connect to the node number `node`, from 0 in the order of `amqp.url`.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn connect_to(&self, node: usize, purpose: &str) -> Result<Connected, BrokerError> {
        let (node, limit) = (self.node(node)?, self.connect_timeout);
        let connected = handshake::connect(&node, &self.tls, limit, purpose, self.sieves).await;
        connected.map_err(|error| self.late(error))
    }

    /// One try at each node of the cluster, for a command that a person waits for.
    ///
    /// # Errors
    /// [`BrokerError`] of the node that was tried last.
    pub async fn connect_once(&self, purpose: &str) -> Result<Connected, BrokerError> {
        let mut result = self.connect(purpose).await;
        for _ in 1..self.nodes()? {
            if result.is_ok() {
                break;
            }
            result = self.connect(purpose).await;
        }
        if result.is_ok() {
            // The next connection begins with the node that answered.
            self.next.fetch_sub(1, Ordering::Relaxed);
        }
        result
    }

    /// What the node number `node` says of itself to whoever connects, before anybody logs in.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn greeting(&self, node: usize) -> Result<Greeting, BrokerError> {
        let greeting = handshake::greeting(&self.node(node)?, &self.tls, self.connect_timeout).await;
        greeting.map_err(|error| self.late(error))
    }

    /// How many nodes are named, never none.
    ///
    /// # Errors
    /// [`BrokerError`] where the file with the URL can't be read.
    pub fn nodes(&self) -> Result<usize, BrokerError> {
        self.read().map(|nodes| nodes.len())
    }

    fn node(&self, number: usize) -> Result<Node, BrokerError> {
        let mut nodes = self.read()?;
        Ok(nodes.swap_remove(number % nodes.len()))
    }

    /// The nodes, never none.
    fn read(&self) -> Result<Vec<Node>, BrokerError> {
        let (urls, place) = match &self.urls {
            Urls::Given(urls) => (urls.clone(), "amqp.url".to_owned()),
            Urls::File(path) => {
                let text = read_url_file(path).map_err(|error| {
                    BrokerError::Url(format!("amqp.url_file {}: {error}", path.display()))
                })?;
                (text, format!("amqp.url_file {}", path.display()))
            }
        };
        broker_url::nodes(&urls, self.rules)
            .map_err(|problem| BrokerError::Url(format!("{place}: {problem}")))
    }

    /// The limit is ours to tell.
    fn late(&self, error: BrokerError) -> BrokerError {
        match error {
            BrokerError::Unreached(Obstacle::TimedOut) => {
                BrokerError::Timeout("connect", self.connect_timeout)
            }
            error => error,
        }
    }
}

/// Closes `connection` in an orderly way, if the broker answers soon: nobody needs that answer, and others wait for the next
/// connection. One that is not closed by then, as while the broker blocks it, is ended.
pub async fn close(connection: &Connected) {
    let closed = async {
        if connection.status().connected() {
            // A connection that can't be closed is gone, which is what was wanted.
            _ = connection.close(200, "bye".into()).await;
        }
    };
    _ = timeout(CLOSE_LIMIT, closed).await;
    connection.ender.end();
}
