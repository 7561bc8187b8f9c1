//! Connections to the broker.

use std::{
    future::Future,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use lapin::{Acker, Channel, Connection, ConnectionProperties, uri::AMQPUri};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{sleep, timeout};
use url::Url;

use super::greeting::Greeting;
use crate::config::{
    self,
    check::{amqp_urls, read_url_file},
};

/// What the heartbeat is where the URL names none, in seconds: a peer that stalls is noticed after two.
const HEARTBEAT_S: u16 = 10;

/// For the broker's answer to a goodbye.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Why the broker did not do what was asked. Shows no password.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// No answer in time.
    #[error("{0}: no answer within {1:?}")]
    Timeout(&'static str, Duration),
    /// lapin's or the broker's own error.
    #[error("{0}: {1}")]
    Lapin(&'static str, lapin::Error),
    /// The broker ended it, or it broke.
    #[error("{0}")]
    Ended(String),
    /// The URL can't be read or used.
    #[error("{0}")]
    Url(String),
}

impl BrokerError {
    /// Whether the broker sent something that lapin can't read, such as a property that is not UTF-8.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Self::Lapin(_, error) if matches!(error.kind(), lapin::ErrorKind::ParsingError(_)))
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

/// Makes connections, to one node of the cluster after the other.
#[derive(Debug)]
pub struct Connector {
    urls: Urls,
    allow_insecure: bool,
    connect_timeout: Duration,
    /// For any single answer of the broker.
    pub timeout: Duration,
    /// The longest wait between two tries.
    pub reconnect_max: Duration,
    /// How often queues and consumers are looked at.
    pub watch_interval: Duration,
    next: AtomicUsize,
}

#[derive(Debug)]
enum Urls {
    Given(SecretString),
    File(PathBuf),
}

impl Connector {
    /// Connections as `config` says.
    #[must_use]
    pub fn new(config: &config::Amqp) -> Self {
        Self {
            urls: config.url_file.clone().map_or_else(|| Urls::Given(config.url.clone()), Urls::File),
            allow_insecure: config.allow_insecure,
            connect_timeout: config.connect_timeout.get(),
            timeout: config.timeout.get(),
            reconnect_max: config.reconnect_max.get(),
            watch_interval: config.watch_interval.get(),
            next: AtomicUsize::new(0),
        }
    }

    /// One try to connect, to the node after the one that was tried last. `purpose` shows in the broker's list of
    /// connections.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn connect(&self, purpose: &str) -> Result<Connection, BrokerError> {
        self.connect_to(self.next.fetch_add(1, Ordering::Relaxed), purpose).await
    }

    /// One try to connect to the node number `node`, from 0 in the order of `amqp.url`.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn connect_to(&self, node: usize, purpose: &str) -> Result<Connection, BrokerError> {
        let uri = self.uri(node)?;
        let name = format!("instant-connect-worker {} {purpose}", env!("CARGO_PKG_VERSION"));
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        match timeout(self.connect_timeout, Connection::connect_uri(uri, properties)).await {
            Ok(result) => result.map_err(|error| BrokerError::Lapin("connect", error)),
            Err(_) => Err(BrokerError::Timeout("connect", self.connect_timeout)),
        }
    }

    /// One try at each node of the cluster, for a command that a person waits for.
    ///
    /// # Errors
    /// [`BrokerError`] of the node that was tried last.
    pub async fn connect_once(&self, purpose: &str) -> Result<Connection, BrokerError> {
        let mut result = self.connect(purpose).await;
        for _ in 1..self.urls()?.len() {
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
        let uri = self.uri(node)?;
        match timeout(self.connect_timeout, Greeting::of(&uri)).await {
            Ok(result) => result.map_err(|error| BrokerError::Ended(format!("greeting: {error}"))),
            Err(_) => Err(BrokerError::Timeout("greeting", self.connect_timeout)),
        }
    }

    /// How many nodes are named, never none.
    ///
    /// # Errors
    /// [`BrokerError`] where the file with the URL can't be read.
    pub fn nodes(&self) -> Result<usize, BrokerError> {
        self.urls().map(|urls| urls.len())
    }

    fn uri(&self, node: usize) -> Result<AMQPUri, BrokerError> {
        let urls = self.urls()?;
        let url = &urls[node % urls.len()];
        let mut uri: AMQPUri = url
            .expose_secret()
            .parse()
            .map_err(|_| BrokerError::Url("amqp.url: expected an amqp:// or amqps:// URL".to_owned()))?;
        // The URI's own parser takes an IPv6 address for no host at all, and no host for this machine.
        if let Some(host) = Url::parse(url.expose_secret()).ok().as_ref().and_then(Url::host_str) {
            host.trim_start_matches('[').trim_end_matches(']').clone_into(&mut uri.authority.host);
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        uri.query
            .connection_timeout
            .get_or_insert(u64::try_from(self.connect_timeout.as_millis()).unwrap_or(u64::MAX));
        Ok(uri)
    }

    /// The URLs, never none.
    fn urls(&self) -> Result<Vec<SecretString>, BrokerError> {
        let (urls, place) = match &self.urls {
            Urls::Given(urls) => (urls.clone(), "amqp.url".to_owned()),
            Urls::File(path) => {
                let text = read_url_file(path).map_err(|error| {
                    BrokerError::Url(format!("amqp.url_file {}: {error}", path.display()))
                })?;
                (text, format!("amqp.url_file {}", path.display()))
            }
        };
        amqp_urls(&urls, self.allow_insecure)
            .map_err(|problem| BrokerError::Url(format!("{place}: {problem}")))
    }
}

/// Closes `connection` in an orderly way, if the broker answers soon: nobody needs that answer, and others wait for the next
/// connection.
pub async fn close(connection: &Connection) {
    if connection.status().connected() {
        // A connection that can't be closed is gone, which is what was wanted.
        _ = timeout(CLOSE_LIMIT, connection.close(200, "bye".into())).await;
    }
}
