//! The ledger's part in a request: one effect for each key, and what is known of an earlier request.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};
use tracing::warn;
use uuid::Uuid;

use super::{RESERVE, StartEvents, publish::NotPublished};
use crate::{
    contract::http::ProblemKind,
    ingress::problem::{HttpProblem, RETRY_SOON},
    ledger::{Claim, Lease, LedgerError},
};

/// Maximum wait for another request with the same key.
const CLAIM_MAX: Duration = Duration::from_secs(4);
/// Maximum wait for the ledger before the publish.
const NOTE_MAX: Duration = Duration::from_secs(2);
/// Maximum wait for the ledger after the confirm.
const RECORD_MAX: Duration = Duration::from_secs(2);
/// Problem of a ledger that does not respond within our own limit.
const NO_ANSWER: &str = "ledger: no response in time";
/// Problem of a key with two bodies.
const REUSED: &str = "the Idempotency-Key (or the webhook-id, or the CloudEvent's source and id) was used before with another body";

impl StartEvents {
    /// Claims the event's id. Without a lease, the event is published and not recorded.
    pub(super) async fn claim(
        &self,
        id: Uuid,
        fingerprint: [u8; 32],
        deadline: Instant,
    ) -> Result<ClaimedKey, HttpProblem> {
        let until = (Instant::now() + CLAIM_MAX).min(deadline - RESERVE - RESERVE);
        let patience = until.saturating_duration_since(Instant::now());
        let key = format!("ingress/{id}");
        // The ledger has a little more time for its own response than for waiting.
        let claim = timeout_at(until + RESERVE / 2, self.ledger.claim(&key, fingerprint, patience)).await;
        let error = match claim {
            Ok(Ok(Claim::Mine(lease))) => return Ok(ClaimedKey::Mine(Some(lease))),
            Ok(Ok(Claim::Recorded(_))) => return Ok(ClaimedKey::Accepted),
            Ok(Ok(Claim::Conflict)) => return Err(HttpProblem::new(ProblemKind::KeyReused, REUSED)),
            Ok(Ok(Claim::Busy)) => return Err(in_flight()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => NO_ANSWER.to_owned(),
        };
        self.ledger_failed(&error).map(|()| ClaimedKey::Mine(None))
    }

    /// Notes that the event of the time `at` may be published, because a confirm may be late. The note keeps the body's fingerprint,
    /// so the key with another body is refused, and with the same body published again with the same id and time.
    pub(super) async fn note(
        &self,
        lease: &mut Lease,
        at: Option<Timestamp>,
        remembered_until: Timestamp,
        deadline: Instant,
    ) -> Result<(), NotPublished> {
        let until = (Instant::now() + NOTE_MAX).min(deadline - RESERVE - RESERVE);
        let note = at.unwrap_or_else(|| self.clock.now()).to_string();
        match timeout_at(until, lease.write_note(note.as_bytes(), remembered_until)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(LedgerError::Lost)) => Err(NotPublished::Unnoted(in_flight())),
            // A repeat that finds the note is not the first request.
            Ok(Err(error)) if error.may_be_written() => {
                self.ledger_failed(&error.to_string()).map_err(NotPublished::Noted)
            }
            Ok(Err(error)) => self.ledger_failed(&error.to_string()).map_err(NotPublished::Unnoted),
            Err(_) => self.ledger_failed(NO_ANSWER).map_err(NotPublished::Noted),
        }
    }

    /// Decides about a request while the ledger is unavailable.
    fn ledger_failed(&self, error: &str) -> Result<(), HttpProblem> {
        self.metrics.ledger_failed();
        if self.without_ledger {
            warn!(
                error,
                "ingress: ledger unavailable; accepting requests without deduplication (ledger.on_failure=continue)"
            );
            return Ok(());
        }
        warn!(error, "ingress: ledger unavailable; refusing requests (ledger.on_failure=wait)");
        Err(HttpProblem::unconfirmed("the ledger is unavailable"))
    }

    /// Records that the event is confirmed. A failure changes no response: the stage recognises a repeat by the event's id.
    pub(super) async fn record(&self, lease: Option<Lease>, remembered_until: Timestamp, deadline: Instant) {
        let Some(mut lease) = lease else { return };
        let until = (Instant::now() + RECORD_MAX).min(deadline - RESERVE / 4);
        let (error, is_lost) = match timeout_at(until, lease.record(b"{}", remembered_until)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => (error.to_string(), error == LedgerError::Lost),
            Err(_) => (NO_ANSWER.to_owned(), false),
        };
        if !is_lost {
            self.metrics.ledger_failed();
        }
        warn!(
            error,
            "ingress: could not record an accepted request; a repeat is published again, with the same id"
        );
    }
}

/// The event's time in an earlier request, if the lease has its note.
pub(super) fn first_time(lease: &Lease) -> Option<Timestamp> {
    str::from_utf8(lease.note()?).ok()?.parse().ok()
}

/// Removes the note of an event that was not published. False if the note may remain: the next request then has this one's time.
pub(super) async fn release(lease: Option<Lease>, deadline: Instant) -> bool {
    let Some(lease) = lease else { return true };
    let until = (Instant::now() + RECORD_MAX).min(deadline - RESERVE / 4);
    matches!(timeout_at(until, lease.release()).await, Ok(Ok(())))
}

/// Response of the ledger.
pub(super) enum ClaimedKey {
    /// Publish, and record it.
    Mine(Option<Lease>),
    /// An earlier request was accepted.
    Accepted,
}

fn in_flight() -> HttpProblem {
    let detail = "another request with the same key is in progress";
    HttpProblem::new(ProblemKind::InFlight, detail).retry_after(RETRY_SOON)
}
