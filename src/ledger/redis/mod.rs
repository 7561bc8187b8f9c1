//! A ledger in Redis, for several workers. Each entry is one hash, which one script changes; a claim is a lease with
//! a token of its own, so that one whose lease ended can't overwrite what another did since.

mod connection;

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::Either;
use tokio::{task::AbortHandle, time::sleep};
use uuid::Uuid;

use super::{
    LedgerError, RedisUrl,
    claims::KeyGuard,
    entry::{Entry, Fingerprint, Found},
};
use connection::{Arguments, RedisConnection};

/// How long a claim lasts without being renewed, as when its worker was killed.
const LEASE: Duration = Duration::from_secs(30);
/// How often a claim is renewed. Two renewals may fail, each by its time limit, before the lease ends.
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// How long the first wait for another worker's result lasts, and how long later ones do at most.
const POLL_FIRST: Duration = Duration::from_millis(25);
const POLL_LAST: Duration = Duration::from_millis(400);

/// Entries under a prefix.
#[derive(Debug)]
pub(super) struct Redis {
    connection: RedisConnection,
    prefix: String,
}

/// A claim in Redis. Dropping it tells Redis that it has ended, and keeps a note; the turn in this process ends when
/// Redis knows.
pub(super) struct HeldLease {
    redis: Arc<Redis>,
    key: String,
    token: String,
    fingerprint: Fingerprint,
    turn: Option<KeyGuard>,
    renewal: Option<AbortHandle>,
    /// Whether Redis knows that it has ended.
    ended: bool,
}

impl Redis {
    pub(super) fn new(url: RedisUrl, prefix: String, ca_file: Option<PathBuf>) -> Result<Self, LedgerError> {
        Ok(Self { connection: RedisConnection::new(url, ca_file)?, prefix })
    }

    /// Whether the script can run.
    pub(super) async fn ping(self: &Arc<Self>) -> Result<(), LedgerError> {
        done(&self.ended("").call("ping", 0, b"").await?)
    }

    /// Keeps for `wait` that what `key` names is to rest, by the server's clock.
    pub(super) async fn rest(self: &Arc<Self>, key: &str, wait: Duration) -> Result<(), LedgerError> {
        let milliseconds = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        done(&self.ended(key).call("rest", milliseconds, b"").await?)
    }

    /// How long what `key` names is still to rest.
    pub(super) async fn rests(self: &Arc<Self>, key: &str) -> Result<Option<Duration>, LedgerError> {
        match &self.ended(key).call("rests", 0, b"").await?[..] {
            [state] if state == b"free" => Ok(None),
            [state, left] if state == b"rests" => {
                let left = std::str::from_utf8(left).ok().and_then(|left| left.parse().ok());
                left.map(Duration::from_millis).map(Some).ok_or_else(unknown)
            }
            _ => Err(unknown()),
        }
    }

    /// For an operation without a claim.
    fn ended(self: &Arc<Self>, key: &str) -> HeldLease {
        let mut held = self.held(key, [0; 32], None);
        held.ended = true;
        held
    }

    /// What the server says of itself.
    pub(super) async fn info(&self) -> Result<String, LedgerError> {
        self.connection.info().await
    }

    fn held(self: &Arc<Self>, key: &str, fingerprint: Fingerprint, turn: Option<KeyGuard>) -> HeldLease {
        HeldLease {
            redis: self.clone(),
            key: format!("{}{key}", self.prefix),
            token: Uuid::new_v4().to_string(),
            fingerprint,
            turn,
            renewal: None,
            ended: false,
        }
    }

    /// Claims `key`; waits for another worker to end, `patience` at most.
    pub(super) async fn claim(
        self: &Arc<Self>,
        key: &str,
        fingerprint: Fingerprint,
        patience: Duration,
        turn: KeyGuard,
    ) -> Result<(Found, HeldLease), LedgerError> {
        // Made before it is asked for, so that a claim that is cancelled meanwhile ends.
        let mut held = self.held(key, fingerprint, Some(turn));
        let over = sleep(patience);
        tokio::pin!(over);
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
            let pause = sleep(pause(wait, fastrand::f64()));
            tokio::pin!(pause);
            if let Either::Left(_) = futures_util::future::select(over.as_mut(), pause).await {
                held.ended = true;
                return Ok((Found::Busy, held));
            }
            wait = next_wait(wait);
        }
    }
}

impl HeldLease {
    pub(super) const fn turn(&self) -> Option<&KeyGuard> {
        self.turn.as_ref()
    }

    pub(super) async fn note(&self, entry: &Entry) -> Result<(), LedgerError> {
        done(&self.call("note", entry.until.as_millisecond(), &entry.bytes).await?)
    }

    pub(super) async fn record(&mut self, entry: &Entry) -> Result<(), LedgerError> {
        let answer = self.call("record", entry.until.as_millisecond(), &entry.bytes).await?;
        self.ended = true;
        done(&answer)
    }

    pub(super) async fn release(&mut self) -> Result<(), LedgerError> {
        let answer = self.call("release", 0, b"").await?;
        self.ended = true;
        done(&answer)
    }

    async fn call(&self, op: &'static str, until_ms: i64, bytes: &[u8]) -> Result<Vec<Vec<u8>>, LedgerError> {
        let arguments = Arguments {
            key: &self.key,
            op,
            token: &self.token,
            fingerprint: &self.fingerprint,
            lease: LEASE,
            until_ms,
            bytes,
        };
        self.redis.connection.call(&arguments).await
    }

    /// This claim, renewed in the background from now on.
    fn renewed(mut self) -> Self {
        let same = self.twin();
        let renewal = tokio::spawn(async move {
            loop {
                sleep(RENEW_EVERY).await;
                // What fails now may succeed next time; a claim that is lost is found out when it is used.
                _ = same.call("renew", 0, b"").await;
            }
        });
        self.renewal = Some(renewal.abort_handle());
        self
    }

    /// The same claim, for a task of its own; dropping it does nothing.
    fn twin(&self) -> Self {
        Self {
            redis: self.redis.clone(),
            key: self.key.clone(),
            token: self.token.clone(),
            fingerprint: self.fingerprint,
            turn: None,
            renewal: None,
            ended: true,
        }
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        if let Some(renewal) = self.renewal.take() {
            renewal.abort();
        }
        if !self.ended
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (same, turn) = (self.twin(), self.turn.take());
            if let Some(turn) = &turn {
                turn.rest();
            }
            runtime.spawn(async move {
                // Should this fail, the lease ends by itself.
                _ = same.call("abandon", 0, b"").await;
                drop(turn);
            });
        }
    }
}

/// Half of `wait` to all of it, so that workers that wait for the same do not ask at the same time.
fn pause(wait: Duration, random: f64) -> Duration {
    wait.mul_f64(0.5 + 0.5 * random)
}

fn next_wait(wait: Duration) -> Duration {
    (wait * 2).min(POLL_LAST)
}

/// What the script answers to a claim.
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
    LedgerError::Refused { reason: "an answer that is not the script's".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(parts: &[&str]) -> Vec<Vec<u8>> {
        parts.iter().map(|part| part.as_bytes().to_vec()).collect()
    }

    #[test]
    fn only_the_scripts_answers_are_understood() {
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
    fn looks_for_anothers_result_come_apart_and_ever_more_seldom() {
        let wait = Duration::from_millis(100);
        assert_eq!([0.0, 0.5, 1.0].map(|random| pause(wait, random).as_millis()), [50, 75, 100]);
        let waits = std::iter::successors(Some(POLL_FIRST), |wait| Some(next_wait(*wait))).take(6);
        assert_eq!(waits.map(|wait| wait.as_millis()).collect::<Vec<_>>(), [25, 50, 100, 200, 400, 400]);
    }
}
