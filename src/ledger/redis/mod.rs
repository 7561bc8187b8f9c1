//! A ledger in Redis, for several workers. Each entry is one hash, changed by one script. A claim is a lease with its
//! own token: a holder with an expired lease cannot overwrite the result of a later holder.

mod connection;
mod lease_renewal;

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, Either};
use tokio::time::sleep;
use uuid::Uuid;

use super::{
    LedgerError, RedisUrl,
    claims::KeyGuard,
    entry::{Fingerprint, Found},
    store::{ClaimResult, Store, StoreClaim},
};
use connection::{Arguments, RedisConnection};
use lease_renewal::{HeldLease, LEASE};

use crate::random::Random;

/// First and longest wait between two checks for the result of another worker.
const POLL_FIRST: Duration = Duration::from_millis(25);
const POLL_LAST: Duration = Duration::from_millis(400);

/// Entries under a prefix.
#[derive(Debug)]
pub(super) struct Redis {
    connection: RedisConnection,
    prefix: String,
    random: Random,
}

/// The names of a claim in Redis.
#[derive(Clone)]
struct ClaimNames {
    /// The key with its prefix.
    key: String,
    token: String,
    fingerprint: Fingerprint,
}

impl Redis {
    pub(super) fn new(url: RedisUrl, prefix: String, ca_file: Option<PathBuf>) -> Result<Self, LedgerError> {
        let connection = RedisConnection::new(url, ca_file)?;
        Ok(Self { connection, prefix, random: Random::system() })
    }

    /// The names of a new claim of `key`, or of an operation that needs no claim.
    fn names(&self, key: &str, fingerprint: Fingerprint) -> ClaimNames {
        ClaimNames { key: format!("{}{key}", self.prefix), token: Uuid::new_v4().to_string(), fingerprint }
    }

    async fn call(
        &self,
        names: &ClaimNames,
        op: &'static str,
        until_ms: i64,
        bytes: &[u8],
    ) -> Result<Vec<Vec<u8>>, LedgerError> {
        let arguments = Arguments {
            key: &names.key,
            op,
            token: &names.token,
            fingerprint: &names.fingerprint,
            lease: LEASE,
            until_ms,
            bytes,
        };
        self.connection.call(&arguments).await
    }

    /// Claims the key of `names`. If another worker holds the claim, waits for at most `patience`.
    async fn acquire(
        self: Arc<Self>,
        names: ClaimNames,
        patience: Duration,
        guard: Arc<KeyGuard>,
    ) -> Result<(Found, HeldLease), LedgerError> {
        // Created before the request, so that cancelling this call ends the claim in Redis.
        let mut held = HeldLease { redis: self, names, guard: Some(guard), renewal: None, ended: false };
        let timeout = sleep(patience);
        tokio::pin!(timeout);
        let mut wait = POLL_FIRST;
        loop {
            match claimed(&held.call("claim", 0, b"").await?) {
                Ok(Found::Busy) => {}
                Ok(found @ Found::Free(_)) => return Ok((found, held.renewed())),
                ended => {
                    held.ended = true;
                    return ended.map(|found| (found, held));
                }
            }
            let pause = sleep(pause(wait, held.redis.random.fraction()));
            tokio::pin!(pause);
            if let Either::Left(_) = futures_util::future::select(timeout.as_mut(), pause).await {
                held.ended = true;
                return Ok((Found::Busy, held));
            }
            wait = next_wait(wait);
        }
    }
}

impl Store for Redis {
    fn claim(
        self: Arc<Self>,
        key: String,
        fingerprint: Fingerprint,
        patience: Duration,
        guard: Arc<KeyGuard>,
    ) -> BoxFuture<'static, ClaimResult> {
        let names = self.names(&key, fingerprint);
        Box::pin(async move {
            let (found, held) = self.acquire(names, patience, guard).await?;
            Ok((found, Box::new(held) as Box<dyn StoreClaim>))
        })
    }

    fn read<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, LedgerError>> {
        let names = self.names(key, [0; 32]);
        Box::pin(async move {
            match &self.call(&names, "read", 0, b"").await?[..] {
                [state] if state == b"free" => Ok(None),
                [state, bytes] if state == b"found" => Ok(Some(bytes.clone())),
                _ => Err(unknown()),
            }
        })
    }

    /// By the clock of the server.
    fn set_rate_limit<'a>(&'a self, key: &'a str, wait: Duration) -> BoxFuture<'a, Result<(), LedgerError>> {
        let milliseconds = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        let names = self.names(key, [0; 32]);
        Box::pin(async move { done(&self.call(&names, "rest", milliseconds, b"").await?) })
    }

    fn rate_limited_for<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Duration>, LedgerError>> {
        let names = self.names(key, [0; 32]);
        Box::pin(async move {
            match &self.call(&names, "rests", 0, b"").await?[..] {
                [state] if state == b"free" => Ok(None),
                [state, left] if state == b"rests" => {
                    let left = std::str::from_utf8(left).ok().and_then(|left| left.parse().ok());
                    left.map(Duration::from_millis).map(Some).ok_or_else(unknown)
                }
                _ => Err(unknown()),
            }
        })
    }

    fn is_shared(&self) -> bool {
        true
    }

    /// Checks that the script can run.
    fn ping(&self) -> BoxFuture<'_, Result<(), LedgerError>> {
        let names = self.names("", [0; 32]);
        Box::pin(async move { done(&self.call(&names, "ping", 0, b"").await?) })
    }

    fn info(&self) -> BoxFuture<'_, Result<Option<String>, LedgerError>> {
        Box::pin(async move { self.connection.info().await.map(Some) })
    }

    /// Redis would have to scan every key.
    fn len(&self) -> BoxFuture<'_, Result<Option<u64>, LedgerError>> {
        Box::pin(async { Ok(None) })
    }

    fn commits(&self) -> u64 {
        0
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// Half of `wait` to all of `wait`, so that workers that wait for the same key do not send requests at the same time.
fn pause(wait: Duration, random: f64) -> Duration {
    wait.mul_f64(0.5 + 0.5 * random)
}

fn next_wait(wait: Duration) -> Duration {
    (wait * 2).min(POLL_LAST)
}

/// Reads the script's response to a claim.
fn claimed(answer: &[Vec<u8>]) -> Result<Found, LedgerError> {
    match answer {
        [state] if state == b"free" => Ok(Found::Free(None)),
        [state, note] if state == b"free" => Ok(Found::Free(Some(note.clone()))),
        [state] if state == b"busy" => Ok(Found::Busy),
        [state, result] if state == b"recorded" => Ok(Found::Recorded(result.clone())),
        [state] if state == b"conflict" => Ok(Found::Conflict),
        _ => Err(unknown()),
    }
}

fn done(answer: &[Vec<u8>]) -> Result<(), LedgerError> {
    match answer {
        [state] if state == b"ok" => Ok(()),
        [state] if state == b"lost" => Err(LedgerError::Lost),
        _ => Err(unknown()),
    }
}

fn unknown() -> LedgerError {
    LedgerError::Refused { reason: "unexpected response to the ledger script".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(parts: &[&str]) -> Vec<Vec<u8>> {
        parts.iter().map(|part| part.as_bytes().to_vec()).collect()
    }

    #[test]
    fn unknown_script_response_is_an_error() {
        let claimed = |parts: &[&str]| claimed(&answer(parts)).map(|found| format!("{found:?}"));
        assert_eq!(claimed(&["free"]).unwrap(), "Free(None)");
        assert_eq!(claimed(&["free", "n"]).unwrap(), "Free(Some([110]))");
        assert_eq!(claimed(&["busy"]).unwrap(), "Busy");
        assert_eq!(claimed(&["recorded", "r"]).unwrap(), "Recorded([114])");
        assert_eq!(claimed(&["conflict"]).unwrap(), "Conflict");
        assert_eq!(done(&answer(&["ok"])), Ok(()));
        assert_eq!(done(&answer(&["lost"])), Err(LedgerError::Lost));
        for other in [&[][..], &["x"], &["x", "y"], &["free", "n", "z"], &["recorded"], &["conflict", "c"]] {
            assert_eq!(claimed(other), Err(unknown()), "{other:?}");
            assert_eq!(done(&answer(other)), Err(unknown()), "{other:?}");
        }
    }

    #[test]
    fn waits_between_checks_vary_and_grow_up_to_the_limit() {
        let wait = Duration::from_millis(100);
        assert_eq!([0.0, 0.5, 1.0].map(|random| pause(wait, random).as_millis()), [50, 75, 100]);
        let waits = std::iter::successors(Some(POLL_FIRST), |wait| Some(next_wait(*wait))).take(6);
        assert_eq!(waits.map(|wait| wait.as_millis()).collect::<Vec<_>>(), [25, 50, 100, 200, 400, 400]);
    }
}
