//! Connections to the broker.
//!
//! - `error`: failed operations, and their kinds
//! - `reply`: waits for a reply that may never come

mod error;
mod reply;

use std::{
    ops::Deref,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use lapin::Connection;
use secrecy::SecretString;
use tokio::time::timeout;

pub use error::{BrokerError, Reason};
pub use reply::{gone, within};

use super::{greeting::Greeting, handshake, port::ConnectionLimits, stream::Ender};
use crate::{
    endpoint::{
        Obstacle,
        broker_url::{self, Node, UrlRules},
        url::read_url_file,
    },
    tls::{Connections, Files},
};

/// Time limit for the broker's reply to a close.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Minimum `frame_max` of a broker: RabbitMQ's default. All properties of a message are one frame. A copy carries up
/// to [`super::headers::COPIED_BYTES_MAX`] of the sender's headers in addition to our own.
pub(super) const FRAME_BYTES_MIN: u32 = 131_072;

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
    pub limits: ConnectionLimits,
}

/// Opens connections to the nodes of the cluster in turn.
#[derive(Debug)]
pub struct Connector {
    urls: Urls,
    rules: UrlRules,
    tls: Connections,
    connect_timeout: Duration,
    pub limits: ConnectionLimits,
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
        let ConnectorSettings { url, url_file, rules, tls, connect_timeout, limits } = settings;
        Self {
            urls: url_file.map_or(Urls::Given(url), Urls::File),
            rules,
            tls: Connections::new(tls),
            connect_timeout,
            limits,
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
