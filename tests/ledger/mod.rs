//! The ledger's promises, kept by all three kinds.

mod crash;
mod file;
mod model;
mod redis;
pub(crate) mod server;

use std::{path::PathBuf, time::Duration};

use instant_connect_worker::ledger::{Claim, Lease, Ledger, LedgerError, LedgerKind};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

use server::Server;

const BODY: [u8; 32] = [1; 32];
const OTHER_BODY: [u8; 32] = [2; 32];
/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// A ledger's surroundings; they go when it is dropped.
pub(crate) enum Place {
    Memory,
    File(TempDir),
    Redis(Server),
}

impl Place {
    fn file() -> Self {
        Self::File(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        let Self::File(folder) = self else { panic!("not a file") };
        folder.path().join("state/ledger")
    }

    fn kind(&self) -> LedgerKind {
        match self {
            Self::Memory => LedgerKind::Memory,
            Self::File(_) => LedgerKind::File { path: self.path() },
            Self::Redis(server) => {
                LedgerKind::Redis { url: server.url().into(), prefix: "icw:test:".to_owned(), ca_file: None }
            }
        }
    }

    async fn open(&self) -> Ledger {
        Ledger::open(self.kind()).await.unwrap()
    }
}

fn later() -> Timestamp {
    Timestamp::now() + SignedDuration::from_hours(1)
}

fn past() -> Timestamp {
    Timestamp::now() - SignedDuration::from_secs(1)
}

async fn claim(ledger: &Ledger, key: &str) -> Claim {
    ledger.claim(key, BODY, LONG).await.unwrap()
}

async fn mine(ledger: &Ledger, key: &str) -> Lease {
    match claim(ledger, key).await {
        Claim::Mine(lease) => lease,
        other => panic!("{other:?}"),
    }
}

async fn recorded(ledger: &Ledger, key: &str) -> Vec<u8> {
    match claim(ledger, key).await {
        Claim::Recorded(result) => result,
        other => panic!("{other:?}"),
    }
}

/// Records the result of what `lease` was for, and ends the claim.
async fn finish(mut lease: Lease, result: &[u8], until: Timestamp) -> Result<(), LedgerError> {
    lease.record(result, until).await
}

async fn record(ledger: &Ledger, key: &str, result: &[u8]) {
    finish(mine(ledger, key).await, result, later()).await.unwrap();
}

/// Each promise, as a test of each kind.
macro_rules! promises {
    ($($name:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&super::Place::Memory).await;
            })+
        }
        mod in_a_file {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&super::Place::file()).await;
            })+
        }
        mod in_redis {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&super::Place::Redis(super::Server::start())).await;
            })+
        }
    };
}

promises!(
    what_was_recorded_is_found,
    another_body_is_refused,
    of_two_at_once_one_acts_and_the_other_gets_its_result,
    who_waits_acts_after_a_release_and_after_a_drop,
    who_is_out_of_patience_is_told,
    a_note_stays_when_its_writer_gives_up,
    a_release_removes_the_note,
    a_record_replaces_the_note,
    what_ended_is_as_good_as_absent,
    keys_and_values_have_limits,
    a_claim_given_up_while_waiting_leaves_nothing,
    of_many_one_acts,
    nothing_kept_is_printed,
);

async fn what_was_recorded_is_found(place: &Place) {
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

async fn another_body_is_refused(place: &Place) {
    let ledger = place.open().await;
    let conflicts = async || matches!(ledger.claim("k", OTHER_BODY, LONG).await.unwrap(), Claim::Conflict);
    let mut lease = mine(&ledger, "k").await;
    assert!(conflicts().await, "while the first is acted on");
    lease.write_note(b"n", later()).await.unwrap();
    drop(lease);
    assert!(conflicts().await, "while the first's outcome is unknown");
    record(&ledger, "k", b"r").await;
    assert!(conflicts().await, "when the first is done");
    assert_eq!(recorded(&ledger, "k").await, b"r");
}

async fn of_two_at_once_one_acts_and_the_other_gets_its_result(place: &Place) {
    let ledger = place.open().await;
    let lease = mine(&ledger, "k").await;
    let (result, done) = tokio::join!(recorded(&ledger, "k"), async {
        tokio::task::yield_now().await;
        finish(lease, b"r", later()).await
    });
    done.unwrap();
    assert_eq!(result, b"r");
}

async fn who_waits_acts_after_a_release_and_after_a_drop(place: &Place) {
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

async fn who_is_out_of_patience_is_told(place: &Place) {
    let ledger = place.open().await;
    let _lease = mine(&ledger, "k").await;
    for patience in [Duration::ZERO, Duration::from_millis(5)] {
        let claim = ledger.claim("k", BODY, patience).await.unwrap();
        assert!(matches!(claim, Claim::Busy), "{claim:?}");
    }
}

async fn a_note_stays_when_its_writer_gives_up(place: &Place) {
    let ledger = place.open().await;
    let mut lease = mine(&ledger, "k").await;
    lease.write_note(b"first", later()).await.unwrap();
    lease.write_note(b"second", later()).await.unwrap();
    drop(lease);
    assert_eq!(mine(&ledger, "k").await.note(), Some(&b"second"[..]));
    assert_eq!(mine(&ledger, "k").await.note(), Some(&b"second"[..]), "a look does not end it");
}

async fn a_release_removes_the_note(place: &Place) {
    let ledger = place.open().await;
    let mut lease = mine(&ledger, "k").await;
    lease.write_note(b"n", later()).await.unwrap();
    lease.release().await.unwrap();
    let mut lease = mine(&ledger, "k").await;
    assert_eq!(lease.note(), None);
    lease.write_note(b"n", later()).await.unwrap();
    drop(lease);
    mine(&ledger, "k").await.release().await.unwrap();
    assert_eq!(mine(&ledger, "k").await.note(), None, "an earlier holder's, too");
}

async fn a_record_replaces_the_note(place: &Place) {
    let ledger = place.open().await;
    let mut lease = mine(&ledger, "k").await;
    lease.write_note(b"n", past()).await.unwrap();
    finish(lease, b"r", later()).await.unwrap();
    assert_eq!(recorded(&ledger, "k").await, b"r");
}

async fn what_ended_is_as_good_as_absent(place: &Place) {
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

async fn keys_and_values_have_limits(place: &Place) {
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

async fn a_claim_given_up_while_waiting_leaves_nothing(place: &Place) {
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

async fn of_many_one_acts(place: &Place) {
    // Redis is shared by processes, so its claimants have nothing else in common.
    let shared = place.open().await;
    let mut claimants = tokio::task::JoinSet::new();
    for claimant in 0..20_u8 {
        let ledger = if matches!(place, Place::Redis(_)) { place.open().await } else { shared.clone() };
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

async fn nothing_kept_is_printed(place: &Place) {
    let ledger = place.open().await;
    let mut lease = mine(&ledger, "visit-secret").await;
    lease.write_note(b"secret", later()).await.unwrap();
    drop(lease);
    let claim = claim(&ledger, "visit-secret").await;
    let shown = format!("{ledger:?} {claim:?} {:?}", place.kind());
    assert!(!shown.contains("secret") && !shown.contains("115, 101, 99"), "{shown}");
    let told = match place {
        Place::Memory => "Memory(Memory(1))".to_owned(),
        Place::File(_) => format!("File(File {{ path: \"{}\", .. }})", place.path().display()),
        Place::Redis(_) => "Redis(Redis { connection: Connection, prefix: \"icw:test:\" })".to_owned(),
    };
    let told = format!("Ledger {{ claims: Claims(1), store: {told} }} Mine(Lease {{ noted: true, .. }}) ");
    assert!(shown.starts_with(&told), "{shown}");
    let Claim::Mine(lease) = claim else { panic!() };
    finish(lease, b"secret", later()).await.unwrap();
    let claim = ledger.claim("visit-secret", BODY, LONG).await.unwrap();
    assert_eq!(format!("{claim:?}"), "Recorded(6 bytes)");
}
