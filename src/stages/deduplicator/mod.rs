//! The ledger as the stages use it: claims on events, and the policy for a ledger that is unavailable.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    clock::Clock,
    contract::{start_session::Digest, time::WireTime},
    ledger::{Claim, Lease, Ledger, LedgerError},
    outcome::{Cause, Class, Death, Failure, Outcome},
    random::Random,
    retry,
    telemetry::metrics::{LedgerMetrics, labels::Claimed},
};

/// Maximum wait for another worker that processes the same event; a call and its retries end within this time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Maximum wait for another worker once the own worker stops. The ledger needs a part of it for an answer without a wait.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// Time that other limits reserve for writing a result.
pub(crate) const WRITE_TIME: Duration = Duration::from_secs(10);
/// First and longest wait before a failed write of a result is repeated.
const WRITE_RETRY_MIN: Duration = Duration::from_millis(200);
const WRITE_RETRY_MAX: Duration = Duration::from_secs(5);

/// Policy while the ledger is unavailable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Stop processing events, so that there are no duplicates.
    Wait,
    /// Process events without deduplication, so duplicates are possible.
    Continue,
}

/// Lifetime of a ledger entry.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Time to keep the entry after the session's links expire.
    pub margin: SignedDuration,
    /// Maximum lifetime, even if the session ends later.
    pub max: SignedDuration,
}

/// A ledger, and the rules for its use.
#[derive(Clone, Debug)]
pub struct Deduplicator {
    ledger: Ledger,
    on_failure: OnFailure,
    retention: Retention,
    metrics: LedgerMetrics,
    random: Random,
    /// True if the last write failed.
    failing: Arc<AtomicBool>,
    /// The worker stops. The default never stops.
    stop: CancellationToken,
}

/// Value to write for an effect that happened, in part or completely.
#[derive(Clone, Copy)]
enum EffectProgress<'a> {
    Part(&'a [u8]),
    Complete(&'a [u8]),
}

/// Result of [`Deduplicator::begin`].
pub(super) enum Begun {
    /// Act, and record the result with the lease. There is no lease if the ledger is unavailable and
    /// `ledger.on_failure` is `continue`.
    Act(Option<Lease>),
    /// The effect has already happened.
    Done,
    /// Do not act; this is the outcome.
    Stop(Outcome),
}

impl Deduplicator {
    /// A ledger with the rules for its use. `random` spreads the repeats of failed writes.
    #[must_use]
    pub fn new(
        ledger: Ledger,
        on_failure: OnFailure,
        retention: Retention,
        metrics: LedgerMetrics,
        random: Random,
    ) -> Self {
        let (failing, stop) = (Arc::default(), CancellationToken::new());
        Self { ledger, on_failure, retention, metrics, random, failing, stop }
    }

    /// Once `stop` is cancelled, no delivery waits for another worker.
    #[must_use]
    pub fn stopped_by(mut self, stop: CancellationToken) -> Self {
        self.stop = stop;
        self
    }

    /// The clock by which entries expire and sessions end.
    pub(super) const fn clock(&self) -> &Clock {
        self.ledger.clock()
    }

    /// Claims the effect `key` of a message whose content has this `digest`.
    pub(super) async fn begin(&self, key: &str, digest: Digest) -> Begun {
        let claim = self.claim(key, digest).await;
        self.metrics.claimed(match &claim {
            Ok(Claim::Mine(_)) => Claimed::Miss,
            Ok(Claim::Recorded(_)) => Claimed::Hit,
            Ok(Claim::Conflict) => Claimed::Conflict,
            Ok(Claim::Busy) => Claimed::Busy,
            Err(_) => Claimed::Failed,
        });
        match claim {
            Ok(Claim::Mine(lease)) => Begun::Act(Some(lease)),
            Ok(Claim::Recorded(_)) => Begun::Done,
            Ok(Claim::Conflict) => Begun::Stop(Outcome::Dead(Death::new(
                Class::Invalid,
                "the event id was already used with different content",
            ))),
            Ok(Claim::Busy) => Begun::Stop(busy("another worker is processing the same event".to_owned())),
            Err(error) => self.failed(&error).map_or(Begun::Act(None), Begun::Stop),
        }
    }

    /// Claims `key`. A worker that stops waits for no other one; dropping the claim ends it.
    async fn claim(&self, key: &str, digest: Digest) -> Result<Claim, LedgerError> {
        let stopped = async {
            self.stop.cancelled().await;
            sleep(STOP_PATIENCE).await;
        };
        tokio::select! {
            biased;
            claim = self.ledger.claim(key, digest, PATIENCE) => claim,
            () = stopped => Ok(Claim::Busy),
        }
    }

    /// The note or the result of `key`, without a claim.
    ///
    /// # Errors
    /// The outcome, if processing must stop because the ledger is unavailable.
    pub(super) async fn read(&self, key: &str) -> Result<Option<Vec<u8>>, Outcome> {
        match self.ledger.read(key).await {
            Ok(bytes) => Ok(bytes),
            Err(error) => self.failed(&error).map_or(Ok(None), Err),
        }
    }

    /// Takes one of the `slots` of `key` for the content with this `digest`, until `until`. A content takes one slot, however often it
    /// comes. Returns false if others have taken all of them; true also without the ledger, if processing may continue without it.
    ///
    /// # Errors
    /// The outcome if the ledger is unavailable, or another worker is taking a slot for the same content.
    pub(super) async fn take_slot(
        &self,
        key: &str,
        slots: u32,
        digest: Digest,
        until: Timestamp,
    ) -> Result<bool, Outcome> {
        for slot in 0..slots {
            let taken = match self.claim(&format!("{key}/{slot}"), digest).await {
                Ok(Claim::Conflict) => continue,
                Ok(Claim::Recorded(_)) => Ok(()),
                Ok(Claim::Mine(mut lease)) => self.timed(lease.record(b"", until)).await,
                Ok(Claim::Busy) => {
                    return Err(busy("another worker is processing the same message".to_owned()));
                }
                Err(error) => Err(error),
            };
            return taken.map_or_else(|error| self.failed(&error).map_or(Ok(true), Err), |()| Ok(true));
        }
        Ok(false)
    }

    /// Records `result`. Returns an outcome if processing must stop because the result was not recorded. Waits while the
    /// ledger is unavailable; the caller sets the time limit.
    pub(super) async fn record(
        &self,
        mut lease: Option<Lease>,
        result: &[u8],
        deadline: WireTime,
    ) -> Option<Outcome> {
        self.write(lease.as_mut()?, EffectProgress::Complete(result), deadline).await
    }

    /// Notes the completed part of an effect, or that it is about to happen; otherwise the same as [`Deduplicator::record`].
    pub(super) async fn note_part(
        &self,
        lease: &mut Option<Lease>,
        part: &[u8],
        deadline: WireTime,
    ) -> Option<Outcome> {
        self.write(lease.as_mut()?, EffectProgress::Part(part), deadline).await
    }

    /// Writes `note` before an effect, once. Returns an outcome if the effect must not happen without the note.
    async fn note(&self, lease: &mut Option<Lease>, note: &[u8], deadline: WireTime) -> Option<Outcome> {
        let noted = self.timed(lease.as_mut()?.write_note(note, self.until(deadline))).await;
        noted.err().and_then(|error| self.failed(&error))
    }

    /// Writes `note` before an effect if the last write failed. Returns an outcome if this write fails too and the
    /// effect must not happen. A full disk can still be read: without this check, an effect would be repeated and never
    /// be recorded.
    pub(super) async fn note_if_failing(
        &self,
        lease: &mut Option<Lease>,
        note: &[u8],
        deadline: WireTime,
    ) -> Option<Outcome> {
        if self.failing.load(Ordering::Relaxed) { self.note(lease, note, deadline).await } else { None }
    }

    /// Writes `progress`. With [`OnFailure::Wait`] repeats a failed write until it succeeds, because the effect has
    /// happened and would happen again.
    async fn write(
        &self,
        lease: &mut Lease,
        progress: EffectProgress<'_>,
        deadline: WireTime,
    ) -> Option<Outcome> {
        let until = self.until(deadline);
        let mut tries = 0;
        loop {
            let written = match progress {
                EffectProgress::Part(note) => self.timed(lease.write_note(note, until)).await,
                EffectProgress::Complete(result) => self.timed(lease.record(result, until)).await,
            };
            let error = written.err()?;
            let outcome = self.failed(&error);
            let waits = matches!(outcome, Some(Outcome::Wait(_))) && error != LedgerError::Closed;
            if !waits {
                return outcome;
            }
            tries += 1;
            let random = self.random.fraction();
            sleep(retry::reconnect_wait(WRITE_RETRY_MIN, WRITE_RETRY_MAX, tries, random)).await;
        }
    }

    /// Releases the claim, because the effect did not happen.
    pub(super) async fn release(lease: Option<Lease>) {
        if let Some(lease) = lease
            && let Err(error) = lease.release().await
        {
            // The claim still ends, at the latest when its lease expires.
            warn!(%error, "could not release ledger claim; it expires within 30 s");
        }
    }

    async fn timed(&self, write: impl Future<Output = Result<(), LedgerError>>) -> Result<(), LedgerError> {
        let since = Instant::now();
        let result = write.await;
        self.failing.store(result.is_err(), Ordering::Relaxed);
        match &result {
            Ok(()) => self.metrics.wrote(since.elapsed()),
            Err(_) => self.metrics.failed(),
        }
        result
    }

    fn until(&self, deadline: WireTime) -> Timestamp {
        let after = |from: Timestamp, span| from.saturating_add(span).unwrap_or(Timestamp::MAX);
        after(deadline.timestamp(), self.retention.margin).min(after(self.clock().now(), self.retention.max))
    }

    /// Outcome of a failed ledger operation; `None` if processing may continue without the ledger.
    fn failed(&self, error: &LedgerError) -> Option<Outcome> {
        match (error, self.on_failure) {
            // The ledger works: the other worker's result counts, and this one must not be published as well.
            (LedgerError::Lost, _) => Some(busy(error.to_string())),
            // Waiting does not make the value smaller.
            (LedgerError::TooLarge { .. }, _) => Some(Outcome::Dead(Death::new(Class::Internal, error))),
            (_, OnFailure::Continue) => {
                warn!(%error, "ledger unavailable; continuing without deduplication (ledger.on_failure=continue)");
                None
            }
            (_, OnFailure::Wait) => Some(Outcome::Wait(Failure {
                cause: Cause::Ledger,
                reason: error.to_string(),
                retry_after: None,
            })),
        }
    }
}

/// Outcome if another worker has the event. That worker soon records a result, or its claim expires.
fn busy(reason: String) -> Outcome {
    let (cause, retry_after) = (Cause::Busy, Some(Duration::from_secs(1)));
    Outcome::TryAgain(Failure { cause, reason, retry_after })
}

#[cfg(test)]
mod tests;
