//! The ledger as the stages use it: whose turn it is, and what follows where the ledger can't say.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use tracing::warn;

use crate::{
    contract::time::Instant as Deadline,
    ledger::{Claim, Lease, Ledger, LedgerError},
    outcome::{Cause, Class, Death, Failure, Outcome},
    telemetry::metrics::{LedgerMetrics, labels::Claimed},
};

/// How long one worker waits for another that acts on the same event: a call and its retries are over by then.
const PATIENCE: Duration = Duration::from_secs(30);

/// What to do while the ledger is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Take no events: nothing can happen twice.
    Wait,
    /// Go on without: an event that comes twice is served twice.
    Continue,
}

/// A ledger, and the rules for its use.
#[derive(Clone, Debug)]
pub struct Book {
    ledger: Ledger,
    on_failure: OnFailure,
    margin: SignedDuration,
    metrics: LedgerMetrics,
}

/// Whether to act.
pub(super) enum Turn {
    /// Act, and record it with the lease (there is none where the ledger is down and that is to be borne).
    Act(Option<Lease>),
    /// It was done; what was recorded.
    Done(Vec<u8>),
    /// Neither.
    Otherwise(Outcome),
}

impl Book {
    /// Entries outlive the session's links by `margin`.
    #[must_use]
    pub const fn new(
        ledger: Ledger,
        on_failure: OnFailure,
        margin: SignedDuration,
        metrics: LedgerMetrics,
    ) -> Self {
        Self { ledger, on_failure, margin, metrics }
    }

    /// Whose turn it is to act on `key` for a message of this `content`, whose session ends at `deadline`.
    pub(super) async fn turn(&self, key: &str, content: &[u8], deadline: Deadline) -> Turn {
        let claim = self.ledger.claim(key, Sha256::digest(content).into(), PATIENCE).await;
        self.metrics.claimed(match &claim {
            Ok(Claim::Mine(_)) => Claimed::Miss,
            Ok(Claim::Recorded(_)) => Claimed::Hit,
            Ok(Claim::Conflict) => Claimed::Conflict,
            Ok(Claim::Busy) => Claimed::Busy,
            Err(_) => Claimed::Failed,
        });
        match claim {
            Ok(Claim::Mine(lease)) => Turn::Act(Some(lease)),
            Ok(Claim::Recorded(result)) => Turn::Done(result),
            Ok(Claim::Conflict) => Turn::Otherwise(Outcome::Dead(Death::new(
                Class::Invalid,
                "the event's id was used before, with another body",
            ))),
            Ok(Claim::Busy) => Turn::Otherwise(Outcome::TryAgain(Failure {
                cause: Cause::Busy,
                reason: "another worker is at the same event".to_owned(),
                retry_after: Some(Duration::from_secs(1)),
                deadline,
            })),
            Err(error) => self.down(&error, deadline).map_or(Turn::Act(None), Turn::Otherwise),
        }
    }

    /// Records `result`; an outcome, where the effect must not go on without.
    pub(super) async fn record(
        &self,
        lease: Option<Lease>,
        result: &[u8],
        deadline: Deadline,
    ) -> Option<Outcome> {
        let recorded = self.timed(lease?.record(result, self.until(deadline))).await;
        recorded.err().and_then(|error| self.down(&error, deadline))
    }

    /// Notes that an effect is about to happen; an outcome, where it must not go on without.
    pub(super) async fn note(
        &self,
        lease: &mut Option<Lease>,
        note: &[u8],
        deadline: Deadline,
    ) -> Option<Outcome> {
        let noted = self.timed(lease.as_mut()?.write_note(note, self.until(deadline))).await;
        noted.err().and_then(|error| self.down(&error, deadline))
    }

    /// Ends the turn: the effect did not happen.
    pub(super) async fn release(lease: Option<Lease>) {
        if let Some(lease) = lease
            && let Err(error) = lease.release().await
        {
            // The claim ends by itself, at the latest with its lease.
            warn!(%error, "a claim could not be given back");
        }
    }

    async fn timed(&self, write: impl Future<Output = Result<(), LedgerError>>) -> Result<(), LedgerError> {
        let since = Instant::now();
        let result = write.await;
        match &result {
            Ok(()) => self.metrics.wrote(since.elapsed()),
            Err(_) => self.metrics.failed(),
        }
        result
    }

    fn until(&self, deadline: Deadline) -> Timestamp {
        deadline.timestamp().saturating_add(self.margin).unwrap_or(Timestamp::MAX)
    }

    fn down(&self, error: &LedgerError, deadline: Deadline) -> Option<Outcome> {
        match self.on_failure {
            OnFailure::Continue => {
                warn!(%error, "going on without the ledger: an event that comes again is served again");
                None
            }
            OnFailure::Wait => Some(Outcome::Wait(Failure {
                cause: Cause::Ledger,
                reason: error.to_string(),
                retry_after: None,
                deadline,
            })),
        }
    }
}
