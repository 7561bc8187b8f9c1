//! One connection, shared by all claims and made anew when it fails. The client's own manager would do that, too, but
//! keeps a connection on which nothing is answered any more.

use std::{fmt, time::Duration};

use redis::{AsyncConnectionConfig, Client, RedisError, Script, aio::MultiplexedConnection};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};

use crate::{
    config::check::{read_url_file, redis_url},
    ledger::{LedgerError, RedisUrl, entry::Fingerprint},
};

/// How long Redis has for an answer, the time to connect included.
const LIMIT: Duration = Duration::from_secs(2);

pub(super) struct Connection {
    url: RedisUrl,
    script: Script,
    current: Mutex<Current>,
}

/// The connection there is, and which one it is.
#[derive(Default)]
struct Current {
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

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

impl Connection {
    pub(super) fn new(url: RedisUrl) -> Result<Self, LedgerError> {
        client(&url)?;
        let script = Script::new(include_str!("entry.lua"));
        Ok(Self { url, script, current: Mutex::default() })
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
        // `run` has the limits.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let connecting = client(&self.url)?.get_multiplexed_async_connection_with_config(&config).await;
        let connection = connecting.map_err(|error| shown(&error))?;
        current.number += 1;
        current.connection = Some(connection.clone());
        Ok((current.number, connection))
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

/// A client for `url`, which connects to nothing yet. What it says of a bad one may show it, and it may hold a password.
fn client(url: &RedisUrl) -> Result<Client, LedgerError> {
    let open = |url: &SecretString| Client::open(url.expose_secret()).map_err(|_| LedgerError::Url);
    let (path, allow_insecure) = match url {
        RedisUrl::Given(url) => return open(url),
        RedisUrl::File { path, allow_insecure } => (path, allow_insecure),
    };
    let unfit = |reason: String| LedgerError::UrlFile { path: path.clone(), reason };
    let url = read_url_file(path).map_err(|error| unfit(error.to_string()))?;
    redis_url(&url, *allow_insecure).map_err(|problem| unfit(problem.to_owned()))?;
    open(&url)
}

/// Without the server's own words, which may repeat what it was sent, or the client's, which may show the URL.
fn shown(error: &RedisError) -> LedgerError {
    let reason = match error.code() {
        Some(code) => format!("{} {code}", error.category()),
        None => error.category().to_owned(),
    };
    if error.is_io_error() {
        let refused = if error.is_connection_refusal() { "connection refused" } else { &reason };
        LedgerError::Unreachable { reason: refused.to_owned() }
    } else {
        LedgerError::Refused { reason }
    }
}
