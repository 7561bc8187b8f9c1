use super::*;
use crate::{
    ledger::{LedgerKind, testing},
    stages,
    telemetry::metrics::Metrics,
};

/// Digests of two contents.
const BODY: Digest = [1; 32];
const OTHER: Digest = [2; 32];

fn deduplicator(ledger: &Ledger, on_failure: OnFailure) -> Deduplicator {
    let metrics = Metrics::new(stages::ALL, &[]).unwrap().ledger(&stages::LINK);
    let retention = Retention { margin: SignedDuration::from_hours(1), max: SignedDuration::from_hours(2) };
    Deduplicator::new(ledger.clone(), on_failure, retention, metrics, Random::system())
}

/// The end of a session, one minute ago; entries outlive the session.
fn deadline() -> WireTime {
    WireTime::floor(Timestamp::now() - SignedDuration::from_mins(1))
}

async fn act(deduplicator: &Deduplicator) -> Option<Lease> {
    match deduplicator.begin("k", BODY).await {
        Begun::Act(lease) => lease,
        Begun::Done => panic!("done"),
        Begun::Stop(outcome) => panic!("{outcome:?}"),
    }
}

fn waits(outcome: Option<&Outcome>) -> bool {
    matches!(outcome, Some(Outcome::Wait(Failure { cause: Cause::Ledger, .. })))
}

#[tokio::test]
async fn entry_expires_after_the_margin_or_the_maximum_lifetime() {
    let deduplicator = deduplicator(&Ledger::open(LedgerKind::Memory).await.unwrap(), OnFailure::Wait);
    assert_eq!(deduplicator.until(deadline()), deadline().timestamp() + SignedDuration::from_hours(1));
    for deadline in ["2999-12-31T23:59:59Z".parse().unwrap(), Timestamp::MAX] {
        let kept = deduplicator.until(WireTime::floor(deadline)).duration_since(deduplicator.clock().now());
        assert!((119..=120).contains(&kept.as_mins()), "{kept}");
    }
}

#[tokio::test]
async fn recorded_result_outlives_its_session_and_released_note_is_removed() {
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
    assert!(matches!(deduplicator.begin("k", BODY).await, Begun::Done));
    let other = deduplicator.begin("k", OTHER).await;
    assert!(matches!(other, Begun::Stop(Outcome::Dead(Death { class: Class::Invalid, .. }))));
}

#[tokio::test]
async fn unavailable_ledger_stops_or_continues_as_configured() {
    for (on_failure, wait) in [(OnFailure::Wait, true), (OnFailure::Continue, false)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let ledger = Ledger::open(LedgerKind::File { path }).await.unwrap();
        let deduplicator = deduplicator(&ledger, on_failure);
        let mut lease = act(&deduplicator).await;
        ledger.close().await;
        assert_eq!(waits(deduplicator.note(&mut lease, b"n", deadline()).await.as_ref()), wait);
        assert_eq!(waits(deduplicator.record(lease, b"r", deadline()).await.as_ref()), wait);
        match deduplicator.begin("k", BODY).await {
            Begun::Stop(outcome) => assert!(wait && waits(Some(&outcome))),
            Begun::Act(lease) => assert!(!wait && lease.is_none()),
            Begun::Done => panic!("done"),
        }
        assert!(deduplicator.record(None, b"r", deadline()).await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn write_after_an_effect_waits_for_the_ledger_and_write_before_does_not() {
    let later = WireTime::floor(Timestamp::MAX);
    let (ledger, disk_is_out) = testing::ledger();
    let deduplicator = deduplicator(&ledger, OnFailure::Wait);
    let outage = async || {
        disk_is_out(true);
        sleep(Duration::from_secs(600)).await;
        disk_is_out(false);
    };
    let mut lease = act(&deduplicator).await;
    disk_is_out(true);
    assert!(deduplicator.note_if_failing(&mut lease, b"n", later).await.is_none(), "no write failed yet");
    assert!(waits(deduplicator.note(&mut lease, b"n", later).await.as_ref()));
    assert!(waits(deduplicator.note_if_failing(&mut lease, b"n", later).await.as_ref()));
    let (kept, ()) = tokio::join!(deduplicator.note_part(&mut lease, b"p", later), outage());
    assert!(kept.is_none());
    drop(lease);
    let lease = act(&deduplicator).await;
    assert_eq!(lease.as_ref().unwrap().note(), Some(&b"p"[..]));
    let (kept, ()) = tokio::join!(deduplicator.record(lease, b"r", later), outage());
    assert!(kept.is_none());
    assert!(matches!(deduplicator.begin("k", BODY).await, Begun::Done));
}

#[tokio::test(start_paused = true)]
async fn continue_policy_does_not_wait_for_the_ledger() {
    let (ledger, disk_is_out) = testing::ledger();
    let deduplicator = deduplicator(&ledger, OnFailure::Continue);
    let lease = act(&deduplicator).await;
    disk_is_out(true);
    assert!(deduplicator.record(lease, b"r", deadline()).await.is_none());
}

#[tokio::test]
async fn error_of_one_event_does_not_count_as_a_ledger_outage() {
    let deadline = WireTime::floor(Timestamp::MAX);
    let ledger = Ledger::open(LedgerKind::Memory).await.unwrap();
    for on_failure in [OnFailure::Wait, OnFailure::Continue] {
        let deduplicator = deduplicator(&ledger, on_failure);
        let outcome = deduplicator.failed(&LedgerError::Lost);
        let Some(Outcome::TryAgain(failure)) = outcome else { panic!("{outcome:?}") };
        assert_eq!((failure.cause, failure.retry_after), (Cause::Busy, Some(Duration::from_secs(1))));
        let Begun::Act(lease) = deduplicator.begin("k", BODY).await else {
            panic!("the key was not claimed")
        };
        let huge = vec![0; crate::ledger::VALUE_BYTES_MAX + 1];
        let outcome = deduplicator.record(lease, &huge, deadline).await;
        let Some(Outcome::Dead(death)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(death.class, Class::Internal);
        assert_eq!(death.reason, "ledger: a result has 4194305 bytes; the limit is 4194304");
    }
}

/// Content number `n`.
const fn content(n: u8) -> Digest {
    [n; 32]
}

#[tokio::test]
async fn content_takes_one_slot_and_no_more_contents_than_slots_get_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    for kind in [LedgerKind::Memory, LedgerKind::File { path }] {
        let deduplicator = deduplicator(&Ledger::open(kind).await.unwrap(), OnFailure::Wait);
        let until = Timestamp::now() + SignedDuration::from_hours(1);
        let take = async |key, n| deduplicator.take_slot(key, 2, content(n), until).await.unwrap();
        let at_once = tokio::join!(take("a", 1), take("a", 2), take("a", 3), take("a", 4));
        let taken = [at_once.0, at_once.1, at_once.2, at_once.3];
        assert_eq!(taken.iter().filter(|taken| **taken).count(), 2, "{taken:?}");
        for (n, taken) in (1..).zip(taken) {
            assert_eq!(take("a", n).await, taken, "{n} at a repeat");
        }
        assert!(take("b", 4).await, "another key");
        let past = Timestamp::now() - SignedDuration::from_hours(1);
        for n in 1..=3 {
            assert!(
                deduplicator.take_slot("c", 1, content(n), past).await.unwrap(),
                "an expired slot is free"
            );
        }
    }
}

#[tokio::test]
async fn slot_without_the_ledger_waits_or_is_given_as_configured() {
    for on_failure in [OnFailure::Wait, OnFailure::Continue] {
        let (ledger, disk_is_out) = testing::ledger();
        let deduplicator = deduplicator(&ledger, on_failure);
        disk_is_out(true);
        let taken = deduplicator.take_slot("a", 1, content(1), Timestamp::MAX).await;
        match taken {
            Ok(taken) => assert!(taken && on_failure == OnFailure::Continue),
            Err(outcome) => assert!(waits(Some(&outcome)) && on_failure == OnFailure::Wait),
        }
    }
}

/// The claim of a killed worker ends only when its lease expires. A worker that stops must not wait for it.
#[tokio::test(start_paused = true)]
async fn stopping_worker_does_not_wait_for_another_worker() {
    let ledger = Ledger::open(LedgerKind::Memory).await.unwrap();
    let stop = CancellationToken::new();
    let deduplicator = deduplicator(&ledger, OnFailure::Wait).stopped_by(stop.clone());
    let _held = act(&deduplicator).await;
    let busy = |begun| matches!(begun, Begun::Stop(Outcome::TryAgain(Failure { cause: Cause::Busy, .. })));
    let since = tokio::time::Instant::now();
    assert!(busy(deduplicator.begin("k", BODY).await));
    assert_eq!(since.elapsed().as_secs(), PATIENCE.as_secs());
    let since = tokio::time::Instant::now();
    stop.cancel();
    assert!(busy(deduplicator.begin("k", BODY).await));
    assert_eq!(since.elapsed().as_secs(), STOP_PATIENCE.as_secs());
}
