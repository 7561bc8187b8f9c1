//! The ledger as the stages use it: whose turn it is, and what follows where the ledger can't say.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use tokio::time::sleep;
use tracing::warn;

use crate::{
    clock,
    contract::time::WireTime,
    ledger::{Claim, Lease, Ledger, LedgerError},
    outcome::{Cause, Class, Death, Failure, Outcome},
    retry,
    telemetry::metrics::{LedgerMetrics, labels::Claimed},
};

/// How long one worker waits for another that acts on the same event: a call and its retries are over by then.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The time that other limits leave for a result to be written.
pub(crate) const WRITE_TIME: Duration = Duration::from_secs(10);
/// The first and the longest wait before a result that could not be written is written again.
const WRITE_AGAIN: Duration = Duration::from_millis(200);
const WRITE_AGAIN_MAX: Duration = Duration::from_secs(5);

/// What to do while the ledger is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnFailure {
    /// Take no events: nothing can happen twice.
    Wait,
    /// Go on without: an event that comes twice is served twice.
    Continue,
}

/// How long an entry is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retention {
    /// Longer than its session's links are valid.
    pub margin: SignedDuration,
    /// At most, however late its session ends.
    pub max: SignedDuration,
}

/// A ledger, and the rules for its use.
#[derive(Clone, Debug)]
pub(crate) struct Deduplicator {
    ledger: Ledger,
    on_failure: OnFailure,
    keep: Retention,
    metrics: LedgerMetrics,
    /// The last write failed.
    failing: Arc<AtomicBool>,
}

/// What is written of an effect that happened.
#[derive(Clone, Copy)]
enum Effect<'a> {
    Partly(&'a [u8]),
    Wholly(&'a [u8]),
}

/// Whether to act.
pub(super) enum Begun {
    /// Act, and record it with the lease (there is none where the ledger is down and that is to be borne).
    Act(Option<Lease>),
    /// It was done.
    Done,
    /// Neither.
    Otherwise(Outcome),
}

impl Deduplicator {
    /// The deduplicator that a stage keeps in `ledger`.
    #[must_use]
    pub(crate) fn new(
        ledger: Ledger,
        on_failure: OnFailure,
        keep: Retention,
        metrics: LedgerMetrics,
    ) -> Self {
        Self { ledger, on_failure, keep, metrics, failing: Arc::default() }
    }

    /// Whose turn it is to act on `key` for a message of this `content`, whose session ends at `deadline`.
    pub(super) async fn begin(&self, key: &str, content: &[u8], deadline: WireTime) -> Begun {
        let claim = self.ledger.claim(key, Sha256::digest(content).into(), PATIENCE).await;
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
            Ok(Claim::Conflict) => Begun::Otherwise(Outcome::Dead(Death::new(
                Class::Invalid,
                "the event's id was used before, with other content",
            ))),
            Ok(Claim::Busy) => {
                Begun::Otherwise(busy("another worker is at the same event".to_owned(), deadline))
            }
            Err(error) => self.failed(&error, deadline).map_or(Begun::Act(None), Begun::Otherwise),
        }
    }

    /// Records `result`; an outcome, where the effect must not go on without. While the ledger is down this waits: the caller
    /// sets the limit.
    pub(super) async fn record(
        &self,
        mut lease: Option<Lease>,
        result: &[u8],
        deadline: WireTime,
    ) -> Option<Outcome> {
        self.keep(lease.as_mut()?, Effect::Wholly(result), deadline).await
    }

    /// Notes a part of an effect, which is done; otherwise as [`Deduplicator::record`].
    pub(super) async fn note_part(
        &self,
        lease: &mut Option<Lease>,
        part: &[u8],
        deadline: WireTime,
    ) -> Option<Outcome> {
        self.keep(lease.as_mut()?, Effect::Partly(part), deadline).await
    }

    /// Notes that an effect is about to happen; an outcome, where it must not go on without.
    pub(super) async fn note(
        &self,
        lease: &mut Option<Lease>,
        note: &[u8],
        deadline: WireTime,
    ) -> Option<Outcome> {
        let noted = self.timed(lease.as_mut()?.write_note(note, self.until(deadline))).await;
        noted.err().and_then(|error| self.failed(&error, deadline))
    }

    /// Where the last write failed, notes `note` before an effect; an outcome, where that fails as well. A disk that is full can be
    /// read: without this an effect would happen again and again, and never be recorded.
    pub(super) async fn note_if_failing(
        &self,
        lease: &mut Option<Lease>,
        note: &[u8],
        deadline: WireTime,
    ) -> Option<Outcome> {
        if self.failing.load(Ordering::Relaxed) { self.note(lease, note, deadline).await } else { None }
    }

    /// Tries until it works, where there is to be no effect without the ledger: this one happened, and would happen once more.
    async fn keep(&self, lease: &mut Lease, what: Effect<'_>, deadline: WireTime) -> Option<Outcome> {
        let until = self.until(deadline);
        let mut tries = 0;
        loop {
            let written = match what {
                Effect::Partly(note) => self.timed(lease.write_note(note, until)).await,
                Effect::Wholly(result) => self.timed(lease.record(result, until)).await,
            };
            let error = written.err()?;
            let outcome = self.failed(&error, deadline);
            let waits = matches!(outcome, Some(Outcome::Wait(_))) && error != LedgerError::Closed;
            if !waits {
                return outcome;
            }
            tries += 1;
            sleep(retry::reconnect_wait(WRITE_AGAIN, WRITE_AGAIN_MAX, tries, fastrand::f64())).await;
        }
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
        self.failing.store(result.is_err(), Ordering::Relaxed);
        match &result {
            Ok(()) => self.metrics.wrote(since.elapsed()),
            Err(_) => self.metrics.failed(),
        }
        result
    }

    fn until(&self, deadline: WireTime) -> Timestamp {
        let after = |from: Timestamp, span| from.saturating_add(span).unwrap_or(Timestamp::MAX);
        after(deadline.timestamp(), self.keep.margin).min(after(clock::now(), self.keep.max))
    }

    /// What follows from what the ledger did not do; nothing, where the effect may go on without.
    fn failed(&self, error: &LedgerError, deadline: WireTime) -> Option<Outcome> {
        match (error, self.on_failure) {
            // It answers: what the other one does counts, and this one's result must not be seen beside it.
            (LedgerError::Lost, _) => Some(busy(error.to_string(), deadline)),
            // No wait makes it smaller.
            (LedgerError::TooLarge { .. }, _) => Some(Outcome::Dead(Death::new(Class::Internal, error))),
            (_, OnFailure::Continue) => {
                warn!(%error, "going on without the ledger: an event that comes again is served again");
                None
            }
            (_, OnFailure::Wait) => Some(Outcome::Wait(Failure {
                cause: Cause::Ledger,
                reason: error.to_string(),
                retry_after: None,
                deadline,
            })),
        }
    }
}

/// Another worker has the event: soon there is a result of its, or it has died.
fn busy(reason: String, deadline: WireTime) -> Outcome {
    let (cause, retry_after) = (Cause::Busy, Some(Duration::from_secs(1)));
    Outcome::TryAgain(Failure { cause, reason, retry_after, deadline })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ledger::LedgerKind,
        simulation,
        telemetry::metrics::{Metrics, labels::Stage},
    };

    fn deduplicator(ledger: &Ledger, on_failure: OnFailure) -> Deduplicator {
        let metrics = Metrics::new(&[]).unwrap().ledger(Stage::Link);
        let keep = Retention { margin: SignedDuration::from_hours(1), max: SignedDuration::from_hours(2) };
        Deduplicator::new(ledger.clone(), on_failure, keep, metrics)
    }

    /// A session that was over a minute ago: entries outlive it.
    fn deadline() -> WireTime {
        WireTime::floor(Timestamp::now() - SignedDuration::from_mins(1))
    }

    async fn act(deduplicator: &Deduplicator) -> Option<Lease> {
        match deduplicator.begin("k", b"body", deadline()).await {
            Begun::Act(lease) => lease,
            Begun::Done => panic!("done"),
            Begun::Otherwise(outcome) => panic!("{outcome:?}"),
        }
    }

    fn waits(outcome: Option<&Outcome>) -> bool {
        matches!(outcome, Some(Outcome::Wait(Failure { cause: Cause::Ledger, .. })))
    }

    #[tokio::test]
    async fn an_entry_outlives_its_session_by_the_margin_and_no_longer_than_it_may() {
        let deduplicator = deduplicator(&Ledger::open(LedgerKind::Memory).await.unwrap(), OnFailure::Wait);
        assert_eq!(deduplicator.until(deadline()), deadline().timestamp() + SignedDuration::from_hours(1));
        for deadline in ["2999-12-31T23:59:59Z".parse().unwrap(), Timestamp::MAX] {
            let kept = deduplicator.until(WireTime::floor(deadline)).duration_since(clock::now());
            assert!((119..=120).contains(&kept.as_mins()), "{kept}");
        }
    }

    #[tokio::test]
    async fn what_was_recorded_outlives_its_session_and_what_was_released_is_forgotten() {
        let ledger = Ledger::open(LedgerKind::Memory).await.unwrap();
        let deduplicator = deduplicator(&ledger, OnFailure::Wait);
        let mut lease = act(&deduplicator).await;
        assert!(deduplicator.note(&mut lease, b"n", deadline()).await.is_none());
        drop(lease);
        let lease = act(&deduplicator).await;
        assert_eq!(lease.as_ref().unwrap().note(), Some(&b"n"[..]));
        Deduplicator::release(lease).await;
        let lease = act(&deduplicator).await;
        assert_eq!(lease.as_ref().unwrap().note(), None);
        assert!(deduplicator.record(lease, b"r", deadline()).await.is_none());
        assert!(matches!(deduplicator.begin("k", b"body", deadline()).await, Begun::Done));
        let other = deduplicator.begin("k", b"another", deadline()).await;
        assert!(matches!(other, Begun::Otherwise(Outcome::Dead(Death { class: Class::Invalid, .. }))));
    }

    #[tokio::test]
    async fn a_ledger_that_is_down_is_waited_for_or_gone_on_without() {
        for (on_failure, wait) in [(OnFailure::Wait, true), (OnFailure::Continue, false)] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("ledger");
            let ledger = Ledger::open(LedgerKind::File { path }).await.unwrap();
            let deduplicator = deduplicator(&ledger, on_failure);
            let mut lease = act(&deduplicator).await;
            ledger.close().await;
            assert_eq!(waits(deduplicator.note(&mut lease, b"n", deadline()).await.as_ref()), wait);
            assert_eq!(waits(deduplicator.record(lease, b"r", deadline()).await.as_ref()), wait);
            match deduplicator.begin("k", b"body", deadline()).await {
                Begun::Otherwise(outcome) => assert!(wait && waits(Some(&outcome))),
                Begun::Act(lease) => assert!(!wait && lease.is_none()),
                Begun::Done => panic!("done"),
            }
            assert!(deduplicator.record(None, b"r", deadline()).await.is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_happened_is_written_down_however_long_it_takes_and_what_is_to_happen_is_not() {
        let later = WireTime::floor(Timestamp::MAX);
        let (ledger, disk_is_out) = simulation::ledger();
        let deduplicator = deduplicator(&ledger, OnFailure::Wait);
        let outage = async || {
            disk_is_out(true);
            sleep(Duration::from_secs(600)).await;
            disk_is_out(false);
        };
        let mut lease = act(&deduplicator).await;
        disk_is_out(true);
        assert!(deduplicator.note_if_failing(&mut lease, b"n", later).await.is_none(), "nobody knows yet");
        assert!(waits(deduplicator.note(&mut lease, b"n", later).await.as_ref()));
        assert!(waits(deduplicator.note_if_failing(&mut lease, b"n", later).await.as_ref()));
        let (kept, ()) = tokio::join!(deduplicator.note_part(&mut lease, b"p", later), outage());
        assert!(kept.is_none());
        drop(lease);
        let lease = act(&deduplicator).await;
        assert_eq!(lease.as_ref().unwrap().note(), Some(&b"p"[..]));
        let (kept, ()) = tokio::join!(deduplicator.record(lease, b"r", later), outage());
        assert!(kept.is_none());
        assert!(matches!(deduplicator.begin("k", b"body", later).await, Begun::Done));
    }

    #[tokio::test(start_paused = true)]
    async fn where_it_may_go_on_without_the_ledger_nothing_waits_for_it() {
        let (ledger, disk_is_out) = simulation::ledger();
        let deduplicator = deduplicator(&ledger, OnFailure::Continue);
        let lease = act(&deduplicator).await;
        disk_is_out(true);
        assert!(deduplicator.record(lease, b"r", deadline()).await.is_none());
    }

    #[tokio::test]
    async fn what_one_event_did_wrong_is_no_outage_of_the_ledger() {
        let deadline = WireTime::floor(Timestamp::MAX);
        let ledger = Ledger::open(LedgerKind::Memory).await.unwrap();
        for on_failure in [OnFailure::Wait, OnFailure::Continue] {
            let deduplicator = deduplicator(&ledger, on_failure);
            let outcome = deduplicator.failed(&LedgerError::Lost, deadline);
            let Some(Outcome::TryAgain(failure)) = outcome else { panic!("{outcome:?}") };
            assert_eq!((failure.cause, failure.retry_after), (Cause::Busy, Some(Duration::from_secs(1))));
            let Begun::Act(lease) = deduplicator.begin("k", b"", deadline).await else {
                panic!("not its turn")
            };
            let huge = vec![0; crate::ledger::VALUE_BYTES_MAX + 1];
            let outcome = deduplicator.record(lease, &huge, deadline).await;
            let Some(Outcome::Dead(death)) = outcome else { panic!("{outcome:?}") };
            assert_eq!(death.class, Class::Internal);
            assert_eq!(death.reason, "ledger: a result of 4194305 bytes, at most 4194304 can be kept");
        }
    }
}
