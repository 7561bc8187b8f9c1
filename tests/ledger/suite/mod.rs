//! The ledger's promises, for any kind of store. The simulation runs this suite on its own store, so the including
//! module names the crate's module `ledger` as `api`.

mod model;

use std::{future::Future, time::Duration};

use super::api::{Claim, Lease, Ledger, LedgerError};
use jiff::{SignedDuration, Timestamp};
use tokio::runtime::Runtime;

pub(crate) use model::assert_matches_model;

pub(crate) const BODY: [u8; 32] = [1; 32];
pub(crate) const OTHER_BODY: [u8; 32] = [2; 32];
/// Longer than any operation here.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// The place where a ledger keeps its entries.
pub(crate) trait Location {
    /// Opens the ledger. Of an earlier ledger from here, no claim is left or will be left soon.
    fn open(&self) -> impl Future<Output = Ledger>;

    /// True if several open ledgers share their claims.
    fn is_shared(&self) -> bool {
        false
    }

    /// True if the entries outlive the open ledger.
    fn is_durable(&self) -> bool {
        true
    }

    /// A runtime for a ledger.
    fn runtime(&self) -> Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    /// The debug output of a store with one entry.
    fn shown(&self) -> String;

    /// The debug output of the settings.
    fn settings(&self) -> String;
}

pub(crate) fn later() -> Timestamp {
    Timestamp::now() + SignedDuration::from_hours(1)
}

pub(crate) fn past() -> Timestamp {
    Timestamp::now() - SignedDuration::from_secs(1)
}

pub(crate) async fn claim(ledger: &Ledger, key: &str) -> Claim {
    ledger.claim(key, BODY, LONG).await.unwrap()
}

pub(crate) async fn mine(ledger: &Ledger, key: &str) -> Lease {
    match claim(ledger, key).await {
        Claim::Mine(lease) => lease,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn recorded(ledger: &Ledger, key: &str) -> Vec<u8> {
    match claim(ledger, key).await {
        Claim::Recorded(result) => result,
        other => panic!("{other:?}"),
    }
}

/// Records the result and ends the claim.
pub(crate) async fn finish(mut lease: Lease, result: &[u8], until: Timestamp) -> Result<(), LedgerError> {
    lease.record(result, until).await
}

pub(crate) async fn record(ledger: &Ledger, key: &str, result: &[u8]) {
    finish(mine(ledger, key).await, result, later()).await.unwrap();
}

/// Defines a test of each promise, marked with the attribute `$test`, on the ledger at `$place`.
macro_rules! promises {
    ($test:meta, $place:expr) => {
        promises! {
            @each $test, $place;
            recorded_result_is_found
            different_body_is_refused
            second_claimant_gets_the_result_of_the_first
            waiting_claimant_proceeds_after_release_or_drop
            claim_is_busy_after_the_wait_limit
            note_survives_a_dropped_lease
            release_removes_the_note
            entry_is_read_without_a_claim
            record_replaces_the_note
            expired_entry_is_treated_as_absent
            keys_and_values_have_limits
            cancelled_waiting_claim_leaves_nothing
            one_of_many_claimants_acts
            debug_output_hides_stored_values
        }
    };
    (@each $test:meta, $place:expr; $($name:ident)+) => {
        $(#[$test]
        async fn $name() {
            super::suite::$name(&$place).await;
        })+
    };
}

pub(crate) async fn recorded_result_is_found(place: &impl Location) {
    let ledger = place.open().await;
    ledger.ping().await.unwrap();
    let lease = mine(&ledger, "k").await;
    assert_eq!(lease.note(), None);
    let result: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    finish(lease, &result, later()).await.unwrap();
    assert_eq!(recorded(&ledger, "k").await, result);
    record(&ledger, "empty", b"").await;
    assert_eq!(recorded(&ledger, "empty").await, b"");
    drop(mine(&ledger, "another").await);
}

pub(crate) async fn different_body_is_refused(place: &impl Location) {
    let ledger = place.open().await;
    let conflicts = async || matches!(ledger.claim("k", OTHER_BODY, LONG).await.unwrap(), Claim::Conflict);
    let mut lease = mine(&ledger, "k").await;
    assert!(conflicts().await, "while the first claim is held");
    lease.write_note(b"n", later()).await.unwrap();
    drop(lease);
    assert!(conflicts().await, "while the first claim's outcome is unknown");
    record(&ledger, "k", b"r").await;
    assert!(conflicts().await, "after the first claim recorded its result");
    assert_eq!(recorded(&ledger, "k").await, b"r");
}

pub(crate) async fn second_claimant_gets_the_result_of_the_first(place: &impl Location) {
    let ledger = place.open().await;
    let lease = mine(&ledger, "k").await;
    let (result, done) = tokio::join!(recorded(&ledger, "k"), async {
        tokio::task::yield_now().await;
        finish(lease, b"r", later()).await
    });
    done.unwrap();
    assert_eq!(result, b"r");
}

pub(crate) async fn waiting_claimant_proceeds_after_release_or_drop(place: &impl Location) {
    let ledger = place.open().await;
    let lease = mine(&ledger, "k").await;
    let (second, released) = tokio::join!(mine(&ledger, "k"), async {
        tokio::task::yield_now().await;
        lease.release().await
    });
    released.unwrap();
    let (third, ()) = tokio::join!(mine(&ledger, "k"), async {
        tokio::task::yield_now().await;
        drop(second);
    });
    assert_eq!(third.note(), None);
}

pub(crate) async fn claim_is_busy_after_the_wait_limit(place: &impl Location) {
    let ledger = place.open().await;
    let _lease = mine(&ledger, "k").await;
    for patience in [Duration::ZERO, Duration::from_millis(5)] {
        let claim = ledger.claim("k", BODY, patience).await.unwrap();
        assert!(matches!(claim, Claim::Busy), "{claim:?}");
    }
}

pub(crate) async fn note_survives_a_dropped_lease(place: &impl Location) {
    let ledger = place.open().await;
    let mut lease = mine(&ledger, "k").await;
    lease.write_note(b"first", later()).await.unwrap();
    lease.write_note(b"second", later()).await.unwrap();
    drop(lease);
    assert_eq!(mine(&ledger, "k").await.note(), Some(&b"second"[..]));
    assert_eq!(mine(&ledger, "k").await.note(), Some(&b"second"[..]), "a claim does not remove the note");
}

pub(crate) async fn release_removes_the_note(place: &impl Location) {
    let ledger = place.open().await;
    let mut lease = mine(&ledger, "k").await;
    lease.write_note(b"n", later()).await.unwrap();
    lease.release().await.unwrap();
    let mut lease = mine(&ledger, "k").await;
    assert_eq!(lease.note(), None);
    lease.write_note(b"n", later()).await.unwrap();
    drop(lease);
    mine(&ledger, "k").await.release().await.unwrap();
    assert_eq!(mine(&ledger, "k").await.note(), None, "a note of an earlier holder too");
}

pub(crate) async fn entry_is_read_without_a_claim(place: &impl Location) {
    let ledger = place.open().await;
    assert_eq!(ledger.read("k").await.unwrap(), None);
    let mut lease = mine(&ledger, "k").await;
    assert_eq!(ledger.read("k").await.unwrap(), None, "only claimed");
    lease.write_note(b"n", later()).await.unwrap();
    assert_eq!(ledger.read("k").await.unwrap().as_deref(), Some(&b"n"[..]), "while it is claimed");
    finish(lease, b"r", later()).await.unwrap();
    assert_eq!(ledger.read("k").await.unwrap().as_deref(), Some(&b"r"[..]));
    let mut lease = mine(&ledger, "old").await;
    lease.write_note(b"n", past()).await.unwrap();
    drop(lease);
    assert_eq!(ledger.read("old").await.unwrap(), None, "expired");
}

pub(crate) async fn record_replaces_the_note(place: &impl Location) {
    let ledger = place.open().await;
    let mut lease = mine(&ledger, "k").await;
    lease.write_note(b"n", past()).await.unwrap();
    finish(lease, b"r", later()).await.unwrap();
    assert_eq!(recorded(&ledger, "k").await, b"r");
}

pub(crate) async fn expired_entry_is_treated_as_absent(place: &impl Location) {
    let ledger = place.open().await;
    let mut lease = mine(&ledger, "k").await;
    lease.write_note(b"n", past()).await.unwrap();
    drop(lease);
    let lease = mine(&ledger, "k").await;
    assert_eq!(lease.note(), None);
    finish(lease, b"r", past()).await.unwrap();
    let Claim::Mine(lease) = ledger.claim("k", OTHER_BODY, LONG).await.unwrap() else { panic!() };
    finish(lease, b"of another body", later()).await.unwrap();
    let Claim::Recorded(result) = ledger.claim("k", OTHER_BODY, LONG).await.unwrap() else { panic!() };
    assert_eq!(result, b"of another body");
}

pub(crate) async fn keys_and_values_have_limits(place: &impl Location) {
    let ledger = place.open().await;
    record(&ledger, &"k".repeat(300), b"r").await;
    let refused = ledger.claim(&"k".repeat(301), BODY, LONG).await.unwrap_err();
    assert!(refused.to_string().contains("a key has 301 bytes; the limit is 300"), "{refused}");
    let mut huge = vec![0; 4 * 1024 * 1024];
    record(&ledger, "huge", &huge).await;
    huge.push(0);
    let refused = finish(mine(&ledger, "k").await, &huge, later()).await.unwrap_err();
    assert!(matches!(refused, LedgerError::TooLarge { .. }), "{refused}");
}

pub(crate) async fn cancelled_waiting_claim_leaves_nothing(place: &impl Location) {
    let ledger = place.open().await;
    let lease = mine(&ledger, "k").await;
    let waiter = {
        let ledger = ledger.clone();
        tokio::spawn(async move { claim(&ledger, "k").await })
    };
    tokio::task::yield_now().await;
    waiter.abort();
    assert!(waiter.await.unwrap_err().is_cancelled());
    lease.release().await.unwrap();
    drop(mine(&ledger, "k").await);
}

pub(crate) async fn one_of_many_claimants_acts(place: &impl Location) {
    // Processes share a Redis, so its claimants use separate connections.
    let shared = place.open().await;
    let mut claimants = tokio::task::JoinSet::new();
    for claimant in 0..20_u8 {
        let ledger = if place.is_shared() { place.open().await } else { shared.clone() };
        claimants.spawn(async move {
            match claim(&ledger, "k").await {
                Claim::Mine(lease) => {
                    finish(lease, &[claimant], later()).await.unwrap();
                    (true, vec![claimant])
                }
                Claim::Recorded(result) => (false, result),
                other => panic!("{other:?}"),
            }
        });
    }
    let ends = claimants.join_all().await;
    assert_eq!(ends.iter().filter(|(acted, _)| *acted).count(), 1);
    assert!(ends.iter().all(|(_, result)| *result == ends[0].1));
}

pub(crate) async fn debug_output_hides_stored_values(place: &impl Location) {
    let ledger = place.open().await;
    let mut lease = mine(&ledger, "visit-secret").await;
    lease.write_note(b"secret", later()).await.unwrap();
    drop(lease);
    let claim = claim(&ledger, "visit-secret").await;
    let shown = format!("{ledger:?} {claim:?} {}", place.settings());
    assert!(!shown.contains("secret") && !shown.contains("115, 101, 99"), "{shown}");
    let expected = format!(
        "Ledger {{ claims: KeyClaims(1), store: {}, clock: Clock(SystemTime) }} Mine(Lease {{ noted: true, .. }}) ",
        place.shown()
    );
    assert!(shown.starts_with(&expected), "{shown}");
    let Claim::Mine(lease) = claim else { panic!() };
    finish(lease, b"secret", later()).await.unwrap();
    let claim = ledger.claim("visit-secret", BODY, LONG).await.unwrap();
    assert_eq!(format!("{claim:?}"), "Recorded(6 bytes)");
}
