//! One connection, shared by all claims and made again when it fails. The client library has a connection manager,
//! but that manager keeps a connection that no longer responds.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisError, Script, aio::MultiplexedConnection};
use rustls::pki_types::ServerName;
use secrecy::ExposeSecret;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
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

/// Time limit for a response from Redis, including the time to connect.
const LIMIT: Duration = Duration::from_secs(2);

pub(super) struct RedisConnection {
    server: Arc<RedisTarget>,
    script: Script,
    current: Arc<Mutex<CurrentConnection>>,
}

/// The server, and what a connection to it needs.
struct RedisTarget {
    url: RedisUrl,
    tls: Connections,
}

/// An attempt to connect, and the connection that it made. All callers share it.
type Attempt = Shared<BoxFuture<'static, Result<MultiplexedConnection, LedgerError>>>;

/// The current attempt and its number.
#[derive(Default)]
struct CurrentConnection {
    number: u64,
    attempt: Option<Attempt>,
}

/// Arguments of the script.
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
        let server = Arc::new(RedisTarget { url, tls });
        Ok(Self { server, script, current: Arc::default() })
    }

    /// Runs the script. The script may run twice for one call; it then returns the same result.
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
            let asked = Instant::now();
            match timeout_at(deadline, call.invoke_async(&mut connection)).await {
                Ok(Ok(answer)) => return Ok(answer),
                // Try once more if an idle connection was lost, or if the server has become a replica: the name may
                // now resolve to the new primary.
                Ok(Err(error)) if error.is_unrecoverable_error() || is_replica(&error) => {
                    forget(&self.current, number);
                    if !first {
                        return Err(shown(&error));
                    }
                    first = false;
                }
                Ok(Err(error)) => return Err(shown(&error)),
                Err(elapsed) => {
                    // After a slow login, only a little of the time was left for the response.
                    if asked.elapsed() >= LIMIT / 2 {
                        forget(&self.current, number);
                    }
                    return Err(slow(elapsed));
                }
            }
        }
    }

    /// Output of the `INFO` command.
    pub(super) async fn info(&self) -> Result<String, LedgerError> {
        let info = async {
            let (_, mut connection) = self.connect().await?;
            redis::cmd("INFO").query_async(&mut connection).await.map_err(|error| shown(&error))
        };
        timeout(LIMIT, info).await.map_err(|_| LedgerError::Slow { limit: LIMIT })?
    }

    /// The current connection. If there is none, all callers wait for the same attempt. It has its own time limit, and continues if a
    /// caller gives up.
    async fn connect(&self) -> Result<(u64, MultiplexedConnection), LedgerError> {
        let (number, attempt) = {
            let mut current = lock(&self.current);
            match current.attempt.clone() {
                Some(attempt) => (current.number, attempt),
                None => (current.number + 1, self.attempt(&mut current)),
            }
        };
        Ok((number, attempt.await?))
    }

    /// Starts a new attempt.
    fn attempt(&self, current: &mut CurrentConnection) -> Attempt {
        current.number += 1;
        let (server, latest, number) = (Arc::clone(&self.server), Arc::clone(&self.current), current.number);
        let made = tokio::spawn(async move {
            let made = server.connect().await;
            if made.is_err() {
                forget(&latest, number);
            }
            made
        });
        let latest = Arc::clone(&self.current);
        let made = made.map(move |made| {
            made.unwrap_or_else(|_| {
                // A panic: the next call connects again.
                forget(&latest, number);
                Err(LedgerError::Closed)
            })
        });
        current.attempt.insert(made.boxed().shared()).clone()
    }
}

/// Drops connection `number`, so that the next call connects again.
fn forget(current: &Mutex<CurrentConnection>, number: u64) {
    let mut current = lock(current);
    if current.number == number {
        current.attempt = None;
    }
}

fn lock(current: &Mutex<CurrentConnection>) -> MutexGuard<'_, CurrentConnection> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RedisTarget {
    async fn connect(&self) -> Result<MultiplexedConnection, LedgerError> {
        let node = node(&self.url)?;
        let begin = async |stream| self.begin(&node, stream).await;
        // Every address of the name would refuse the same login.
        let is_final = |error: &LedgerError| matches!(error, LedgerError::Refused { .. });
        dial(&node.host, node.port, LIMIT, unreachable, begin, is_final).await
    }

    /// Sets up TLS and logs in.
    async fn begin(&self, node: &RedisNode, stream: TcpStream) -> Result<MultiplexedConnection, LedgerError> {
        let mut info = RedisConnectionInfo::default().set_db(node.database);
        if let Some(user) = &node.user {
            info = info.set_username(user);
        }
        if let Some(password) = &node.password {
            info = info.set_password(password.expose_secret());
        }
        // `call` has its own time limits.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let (tls, name) = (node.tls, node.host.clone());
        if !tls {
            return driven(MultiplexedConnection::new_with_config(&info, stream, config).await);
        }
        let name = ServerName::try_from(name).map_err(|_| unreachable(Obstacle::WrongName))?;
        let tls_config =
            self.tls.config().map_err(|error| LedgerError::Unreachable { reason: error.to_string() })?;
        let stream = TlsConnector::from(tls_config).connect(name, stream).await;
        let stream = stream.map_err(|error| unreachable(Obstacle::of(&error)))?;
        driven(MultiplexedConnection::new_with_config(&info, stream, config).await)
    }
}

/// True if the server is a read-only replica. Some versions report this inside the error of a script.
fn is_replica(error: &RedisError) -> bool {
    error.code() == Some("READONLY") || error.detail().is_some_and(|detail| detail.contains("READONLY"))
}

/// Starts the driver task of a new connection.
fn driven(
    made: Result<(MultiplexedConnection, impl Future<Output = ()> + Send + 'static), RedisError>,
) -> Result<MultiplexedConnection, LedgerError> {
    let (connection, driver) = made.map_err(|error| shown(&error))?;
    tokio::spawn(driver);
    Ok(connection)
}

/// Parses `url`; a file is read again.
fn node(url: &RedisUrl) -> Result<RedisNode, LedgerError> {
    let (path, allow_insecure) = match url {
        // TLS was already checked with the configuration.
        RedisUrl::Given(url) => return redis_node(url, true).map_err(|problem| LedgerError::Url { problem }),
        RedisUrl::File { path, allow_insecure } => (path, allow_insecure),
    };
    let unusable = |reason: String| LedgerError::UrlFile { path: path.clone(), reason };
    let url = read_url_file(path).map_err(|error| unusable(error.to_string()))?;
    redis_node(&url, *allow_insecure).map_err(unusable)
}

fn unreachable(obstacle: Obstacle) -> LedgerError {
    match obstacle {
        Obstacle::TimedOut => LedgerError::Slow { limit: LIMIT },
        obstacle => LedgerError::Unreachable { reason: obstacle.as_str().to_owned() },
    }
}

/// Converts an error. Leaves out the text of the server, which may repeat what was sent, and the text of the client,
/// which may show the URL.
fn shown(error: &RedisError) -> LedgerError {
    if error.is_io_error() {
        let obstacle = Obstacle::of(error);
        let other = obstacle == Obstacle::Other;
        let reason = if other { error.category() } else { obstacle.as_str() };
        return LedgerError::Unreachable { reason: reason.to_owned() };
    }
    // An error code of Redis is one word in capitals.
    let plain = |code: &&str| code.len() <= 32 && code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    let reason = match error.code().filter(plain) {
        Some(code) => format!("{} {code}", error.category()),
        None => error.category().to_owned(),
    };
    LedgerError::Refused { reason }
}
