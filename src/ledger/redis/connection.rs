//! One connection, shared by all claims and made anew when it fails. The client's own manager would do that, too, but
//! keeps a connection on which nothing is answered any more.

use std::{fmt, path::PathBuf, time::Duration};

use redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisError, Script, aio::MultiplexedConnection};
use rustls::pki_types::ServerName;
use secrecy::ExposeSecret;
use tokio::{
    net::TcpStream,
    sync::Mutex,
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsConnector;

use crate::{
    endpoint::{
        Obstacle, dial,
        redis_url::{RedisNode, redis_node},
        url::read_url_file,
    },
    ledger::{LedgerError, RedisUrl, entry::Fingerprint},
    tls::{Connections, Files},
};

/// How long Redis has for an answer, the time to connect included.
const LIMIT: Duration = Duration::from_secs(2);

pub(super) struct RedisConnection {
    url: RedisUrl,
    tls: Connections,
    script: Script,
    current: Mutex<CurrentConnection>,
}

/// The connection there is, and which one it is.
#[derive(Default)]
struct CurrentConnection {
    number: u64,
    connection: Option<MultiplexedConnection>,
}

/// What the script takes.
pub(super) struct Arguments<'a> {
    pub(super) key: &'a str,
    pub(super) op: &'static str,
    pub(super) token: &'a str,
    pub(super) fingerprint: &'a Fingerprint,
    pub(super) lease: Duration,
    pub(super) until_ms: i64,
    pub(super) bytes: &'a [u8],
}

impl fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisConnection")
    }
}

impl RedisConnection {
    pub(super) fn new(url: RedisUrl, ca_file: Option<PathBuf>) -> Result<Self, LedgerError> {
        node(&url)?;
        let script = Script::new(include_str!("entry.lua"));
        let tls = Connections::new(Files { ca: ca_file, client: None });
        Ok(Self { url, tls, script, current: Mutex::default() })
    }

    /// Runs the script. It may run twice for one call, and answers the second time as the first.
    pub(super) async fn call(&self, arguments: &Arguments<'_>) -> Result<Vec<Vec<u8>>, LedgerError> {
        let mut call = self.script.key(arguments.key);
        call.arg(arguments.op)
            .arg(arguments.token)
            .arg(arguments.fingerprint.as_slice())
            .arg(arguments.lease.as_millis().to_string())
            .arg(arguments.until_ms)
            .arg(arguments.bytes);
        let deadline = Instant::now() + LIMIT;
        let slow = |_| LedgerError::Slow { limit: LIMIT };
        let mut first = true;
        loop {
            let connected = timeout_at(deadline, self.connect()).await.map_err(slow)?;
            let (number, mut connection) = connected?;
            match timeout_at(deadline, call.invoke_async(&mut connection)).await {
                Ok(Ok(answer)) => return Ok(answer),
                // A connection that was lost while nobody used it is worth another try; so is one to a server that became a
                // replica meanwhile, as the name may lead to the new primary by now.
                Ok(Err(error)) if error.is_unrecoverable_error() || is_replica(&error) => {
                    self.forget(number).await;
                    if !first {
                        return Err(shown(&error));
                    }
                    first = false;
                }
                Ok(Err(error)) => return Err(shown(&error)),
                Err(elapsed) => {
                    self.forget(number).await;
                    return Err(slow(elapsed));
                }
            }
        }
    }

    /// What the server says of itself.
    pub(super) async fn info(&self) -> Result<String, LedgerError> {
        let asked = async {
            let (_, mut connection) = self.connect().await?;
            redis::cmd("INFO").query_async(&mut connection).await.map_err(|error| shown(&error))
        };
        tokio::time::timeout(LIMIT, asked).await.map_err(|_| LedgerError::Slow { limit: LIMIT })?
    }

    async fn connect(&self) -> Result<(u64, MultiplexedConnection), LedgerError> {
        let mut current = self.current.lock().await;
        if let Some(connection) = &current.connection {
            return Ok((current.number, connection.clone()));
        }
        let node = node(&self.url)?;
        let begin = async |stream| self.begin(&node, stream).await;
        // Any address of the name would refuse the same login.
        let is_final = |error: &LedgerError| matches!(error, LedgerError::Refused { .. });
        let connection = dial(&node.host, node.port, LIMIT, unreachable, begin, is_final).await?;
        current.number += 1;
        current.connection = Some(connection.clone());
        Ok((current.number, connection))
    }

    /// TLS, and the login.
    async fn begin(&self, node: &RedisNode, stream: TcpStream) -> Result<MultiplexedConnection, LedgerError> {
        let mut info = RedisConnectionInfo::default().set_db(node.database);
        if let Some(user) = &node.user {
            info = info.set_username(user);
        }
        if let Some(password) = &node.password {
            info = info.set_password(password.expose_secret());
        }
        // `call` has the limits.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let (connecting, name) = (node.tls, node.host.clone());
        if !connecting {
            return driven(MultiplexedConnection::new_with_config(&info, stream, config).await);
        }
        let name = ServerName::try_from(name).map_err(|_| unreachable(Obstacle::WrongName))?;
        let config_of_tls =
            self.tls.config().map_err(|error| LedgerError::Unreachable { reason: error.to_string() })?;
        let stream = TlsConnector::from(config_of_tls).connect(name, stream).await;
        let stream = stream.map_err(|error| unreachable(Obstacle::of(&error)))?;
        driven(MultiplexedConnection::new_with_config(&info, stream, config).await)
    }

    /// Has the next call connect, unless another one has done so already.
    async fn forget(&self, number: u64) {
        let mut current = self.current.lock().await;
        if current.number == number {
            current.connection = None;
        }
    }
}

/// Whether the server takes no writes, as a replica. Some versions say it within a script's own error.
fn is_replica(error: &RedisError) -> bool {
    error.code() == Some("READONLY") || error.detail().is_some_and(|detail| detail.contains("READONLY"))
}

/// The connection, its driver running for as long as it lasts.
fn driven(
    made: Result<(MultiplexedConnection, impl Future<Output = ()> + Send + 'static), RedisError>,
) -> Result<MultiplexedConnection, LedgerError> {
    let (connection, driver) = made.map_err(|error| shown(&error))?;
    tokio::spawn(driver);
    Ok(connection)
}

/// What `url` names, as it is now.
fn node(url: &RedisUrl) -> Result<RedisNode, LedgerError> {
    let (path, allow_insecure) = match url {
        // Checked with the configuration.
        RedisUrl::Given(url) => return redis_node(url, true).map_err(|problem| LedgerError::Url { problem }),
        RedisUrl::File { path, allow_insecure } => (path, allow_insecure),
    };
    let unfit = |reason: String| LedgerError::UrlFile { path: path.clone(), reason };
    let url = read_url_file(path).map_err(|error| unfit(error.to_string()))?;
    redis_node(&url, *allow_insecure).map_err(unfit)
}

fn unreachable(obstacle: Obstacle) -> LedgerError {
    match obstacle {
        Obstacle::TimedOut => LedgerError::Slow { limit: LIMIT },
        obstacle => LedgerError::Unreachable { reason: obstacle.words().to_owned() },
    }
}

/// Without the server's own words, which may repeat what it was sent, or the client's, which may show the URL.
fn shown(error: &RedisError) -> LedgerError {
    if error.is_io_error() {
        let obstacle = Obstacle::of(error);
        let other = obstacle == Obstacle::Other;
        let reason = if other { error.category() } else { obstacle.words() };
        return LedgerError::Unreachable { reason: reason.to_owned() };
    }
    // A code is one word in capitals. What is none was not said by Redis.
    let plain = |code: &&str| code.len() <= 32 && code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    let reason = match error.code().filter(plain) {
        Some(code) => format!("{} {code}", error.category()),
        None => error.category().to_owned(),
    };
    LedgerError::Refused { reason }
}
