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
    handshake::{self, NonBroker},
    stream::Ender,
};
use crate::{
    endpoint::{
        Obstacle,
        broker_url::{self, Node, UrlRules},
        url::read_url_file,
    },
    masking::masked,
    tls::{Connections, Files},
};

/// Time limit for the broker's reply to a close.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Minimum `frame_max` of a broker: RabbitMQ's default. All properties of a message are one frame. A copy carries up
/// to [`super::headers::COPIED_BYTES_MAX`] of the sender's headers in addition to our own.
pub(super) const FRAME_BYTES_MIN: u32 = 131_072;

/// An operation on the broker that failed. Its text shows no password.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// No reply within the time limit.
    #[error("{0}: no answer within {1:?}")]
    Timeout(&'static str, Duration),
    /// An error of lapin or of the broker.
    #[error("{0}: {text}", text = masked(&.1.to_string()))]
    Lapin(&'static str, lapin::Error),
    /// The broker closed the connection or channel, or it broke.
    #[error("{}", masked(.0))]
    Ended(String),
    /// The URL can't be read or is invalid.
    #[error("{0}")]
    Url(String),
    /// The connection could not be established.
    #[error("connect: {0}")]
    Unreached(Obstacle),
    /// The peer is not an AMQP 0-9-1 broker.
    #[error("connect: {0}")]
    NonBroker(NonBroker),
    /// The broker's `frame_max` is smaller than the copy of an event may need.
    #[error(
        "connect: the broker's frame_max is {0} bytes, and the copy of an event may need {FRAME_BYTES_MIN}; set frame_max in the broker's configuration to that or more"
    )]
    SmallFrames(u32),
    /// A file that TLS needs is unusable.
    #[error("connect: TLS: {}", masked(&.0.to_string()))]
    Tls(rustls::Error),
}

/// The kind of an error, which does not depend on its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No reply at this step.
    Timeout(&'static str),
    /// An error with this AMQP reply code.
    Reply(u16),
    /// No connection to the peer.
    Unreached(Obstacle),
    /// The peer is not a broker.
    NonBroker(NonBroker),
    /// An invalid setting, or an unusable file that a setting names.
    Setting,
    /// The broker's exchanges or queues do not match.
    Topology,
    /// The connection or channel broke or was closed.
    Ended,
}

impl BrokerError {
    /// True if lapin could not process the bytes that it read: a property that is not UTF-8, a frame that is too
    /// large or out of order. On an established connection, the cause is a message, and it will end the next
    /// connection too.
    #[must_use]
    pub fn is_protocol_error(&self) -> bool {
        // lapin itself raises the codes for frame, syntax, command, channel and unexpected-frame errors.
        matches!(self, Self::Lapin(_, error) if matches!(error.kind(), lapin::ErrorKind::ParsingError(_)))
            || matches!(self.reply_code(), Some(501..=505))
    }

    /// The kind of this error.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Timeout(step, _) => Reason::Timeout(step),
            Self::Lapin(..) => self.reply_code().map_or(Reason::Ended, Reason::Reply),
            Self::Ended(_) => Reason::Ended,
            Self::Url(_) | Self::Tls(_) | Self::SmallFrames(_) => Reason::Setting,
            Self::Unreached(obstacle) => Reason::Unreached(*obstacle),
            Self::NonBroker(non_broker) => Reason::NonBroker(*non_broker),
        }
    }

    /// The AMQP reply code, such as 406, if the broker or lapin gave one.
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

/// A connection or channel: anything that can close while we await a reply.
pub trait Peer: Sync {
    /// True if no reply can arrive any more.
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

/// Waits for the reply to `action`, until `peer` is gone, and at most for `limit`. Every request to the broker goes
/// through this function. lapin sometimes leaves a request unanswered if the connection breaks meanwhile (measured: a
/// close, a confirm.select, acks).
///
/// # Errors
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

/// Resolves shortly after `peer` is gone. The delay lets lapin report the cause to other waiting tasks first.
pub async fn gone(step: &'static str, peer: &impl Peer) -> BrokerError {
    while !peer.is_gone() {
        sleep(Duration::from_millis(100)).await;
    }
    sleep(Duration::from_millis(500)).await;
    BrokerError::Ended(format!("{step}: the connection was closed"))
}

/// A connection that was established, and the handle that ends its stream.
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

/// The settings of a [`Connector`], all of section `amqp`.
#[derive(Debug)]
pub struct ConnectorSettings {
    /// The URLs of the nodes.
    pub url: SecretString,
    /// A file with the URLs, instead of `url`.
    pub url_file: Option<PathBuf>,
    /// Rules for the URLs.
    pub rules: UrlRules,
    /// TLS files.
    pub tls: Files,
    /// Time limit for a connection, TLS and login included.
    pub connect_timeout: Duration,
    /// Time limit for each reply of the broker.
    pub timeout: Duration,
    /// Maximum wait between two attempts.
    pub reconnect_max: Duration,
    /// Interval between two checks of queues and consumers.
    pub watch_interval: Duration,
}

/// Opens connections to the nodes of the cluster in turn.
#[derive(Debug)]
pub struct Connector {
    urls: Urls,
    rules: UrlRules,
    tls: Connections,
    connect_timeout: Duration,
    /// Time limit for each reply of the broker.
    pub timeout: Duration,
    /// Maximum wait between two attempts.
    pub reconnect_max: Duration,
    /// Interval between two checks of queues and consumers.
    pub watch_interval: Duration,
    next: AtomicUsize,
    filters_properties: bool,
}

#[derive(Debug)]
enum Urls {
    Given(SecretString),
    File(PathBuf),
}

impl Connector {
    /// Creates a connector.
    #[must_use]
    pub fn new(settings: ConnectorSettings) -> Self {
        let ConnectorSettings {
            url,
            url_file,
            rules,
            tls,
            connect_timeout,
            timeout,
            reconnect_max,
            watch_interval,
        } = settings;
        Self {
            urls: url_file.map_or(Urls::Given(url), Urls::File),
            rules,
            tls: Connections::new(tls),
            connect_timeout,
            timeout,
            reconnect_max,
            watch_interval,
            next: AtomicUsize::new(0),
            filters_properties: false,
        }
    }

    /// Makes connections survive messages with unreadable properties. Such a message arrives without its properties
    /// (`is_unreadable`).
    #[must_use]
    pub fn filtering_properties(self) -> Self {
        Self { filters_properties: true, ..self }
    }

    /// Tries once to connect, to the node after the last one tried. `purpose` shows in the broker's list of
    /// connections.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn connect(&self, purpose: &str) -> Result<Connected, BrokerError> {
        self.connect_to(self.next.fetch_add(1, Ordering::Relaxed), purpose).await
    }

    /// Tries once to connect to node number `node`, counted from 0 in the order of `amqp.url`.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn connect_to(&self, node: usize, purpose: &str) -> Result<Connected, BrokerError> {
        let (node, limit) = (self.node(node)?, self.connect_timeout);
        let connected = handshake::connect(&node, &self.tls, limit, purpose, self.filters_properties).await;
        connected.map_err(|error| self.with_time_limit(error))
    }

    /// Tries each node of the cluster once, for a command that a person waits for.
    ///
    /// # Errors
    /// [`BrokerError`] of the last node.
    pub async fn connect_once(&self, purpose: &str) -> Result<Connected, BrokerError> {
        let mut result = self.connect(purpose).await;
        for _ in 1..self.nodes()? {
            if result.is_ok() {
                break;
            }
            result = self.connect(purpose).await;
        }
        if result.is_ok() {
            // The next connection starts with the node that replied.
            self.next.fetch_sub(1, Ordering::Relaxed);
        }
        result
    }

    /// Reads the description that node number `node` sends before any login.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn greeting(&self, node: usize) -> Result<Greeting, BrokerError> {
        let greeting = handshake::greeting(&self.node(node)?, &self.tls, self.connect_timeout).await;
        greeting.map_err(|error| self.with_time_limit(error))
    }

    /// Number of configured nodes, at least one.
    ///
    /// # Errors
    /// [`BrokerError`] if the file with the URL can't be read.
    pub fn nodes(&self) -> Result<usize, BrokerError> {
        self.read().map(|nodes| nodes.len())
    }

    fn node(&self, number: usize) -> Result<Node, BrokerError> {
        let mut nodes = self.read()?;
        Ok(nodes.swap_remove(number % nodes.len()))
    }

    /// The configured nodes, at least one.
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

    /// Adds the configured time limit to a timeout.
    fn with_time_limit(&self, error: BrokerError) -> BrokerError {
        match error {
            BrokerError::Unreached(Obstacle::TimedOut) => {
                BrokerError::Timeout("connect", self.connect_timeout)
            }
            error => error,
        }
    }
}

/// Closes `connection`, and ends its stream if the broker does not reply soon, for example because it blocks the
/// connection. The reply is not needed, and callers wait for the next connection.
pub async fn close(connection: &Connected) {
    let closed = async {
        if connection.status().connected() {
            // If the close fails, the connection is already gone.
            _ = connection.close(200, "bye".into()).await;
        }
    };
    _ = timeout(CLOSE_LIMIT, closed).await;
    connection.ender.end();
}
