//! What can happen to the file.

use std::{fs, os::unix::fs::PermissionsExt, time::Instant};

use futures_util::FutureExt;
use tokio::task::JoinSet;

use super::*;

#[tokio::test]
async fn a_file_that_is_opened_again_knows_what_was_done() {
    let place = Place::file();
    let ledger = place.open().await;
    record(&ledger, "done", b"r").await;
    let mut lease = mine(&ledger, "noted").await;
    lease.write_note(b"n", later()).await.unwrap();
    let _held = mine(&ledger, "held").await;
    drop(lease);
    ledger.close().await;
    ledger.close().await;
    let ledger = place.open().await;
    assert_eq!(recorded(&ledger, "done").await, b"r");
    assert_eq!(mine(&ledger, "noted").await.note(), Some(&b"n"[..]));
    assert_eq!(mine(&ledger, "held").await.note(), None);
}

#[tokio::test]
async fn a_note_that_is_being_written_when_its_writer_gives_up_is_seen_by_the_next() {
    let ledger = Place::file().open().await;
    for n in 0..100 {
        let key = format!("k{n}");
        let mut lease = mine(&ledger, &key).await;
        // Asked for, and not waited for.
        _ = lease.write_note(b"n", later()).now_or_never();
        drop(lease);
        assert_eq!(mine(&ledger, &key).await.note(), Some(&b"n"[..]), "{key}");
    }
}

#[tokio::test]
async fn a_release_with_nothing_to_forget_costs_no_commit() {
    let ledger = Place::file().open().await;
    mine(&ledger, "k").await.release().await.unwrap();
    assert_eq!(ledger.commits(), 0);
    record(&ledger, "k", b"r").await;
    assert_eq!(ledger.commits(), 1);
    record(&ledger, "l", b"r").await;
    assert_eq!(ledger.commits(), 2);
}

#[tokio::test]
async fn nobody_else_can_read_it() {
    let place = Place::file();
    let _ledger = place.open().await;
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.path()), 0o600);
    assert_eq!(mode(place.path().parent().unwrap()), 0o700);
}

#[tokio::test]
async fn a_second_opening_is_refused_and_the_first_goes_on() {
    let place = Place::file();
    let ledger = place.open().await;
    let error = Ledger::open(place.kind()).await.unwrap_err();
    assert_eq!(error, LedgerError::InUse { path: place.path() });
    assert!(error.to_string().contains("hint: give each worker its own ledger.path"), "{error}");
    record(&ledger, "k", b"r").await;
}

#[tokio::test]
async fn a_closed_ledger_says_so() {
    let place = Place::file();
    let ledger = place.open().await;
    let lease = mine(&ledger, "k").await;
    ledger.close().await;
    assert_eq!(finish(lease, b"r", later()).await, Err(LedgerError::Closed));
    assert_eq!(ledger.ping().await, Err(LedgerError::Closed));
    assert_eq!(ledger.claim("k", BODY, LONG).await.unwrap_err(), LedgerError::Closed);
}

#[tokio::test]
async fn a_folder_in_its_place_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let error = Ledger::open(LedgerKind::File { path: folder.path().to_owned() }).await.unwrap_err();
    assert!(error.to_string().contains(folder.path().to_str().unwrap()), "{error}");
    let below_a_file = folder.path().join("file/ledger");
    fs::write(folder.path().join("file"), "").unwrap();
    let error = Ledger::open(LedgerKind::File { path: below_a_file }).await.unwrap_err();
    assert!(matches!(error, LedgerError::File { .. }), "{error}");
}

#[tokio::test]
async fn a_damaged_file_is_refused_at_every_start() {
    let place = Place::file();
    let ledger = place.open().await;
    for key in 0..200 {
        let lease = mine(&ledger, &key.to_string()).await;
        tokio::spawn(async move { finish(lease, &[7; 2000], later()).await });
    }
    ledger.close().await;
    let whole = fs::read(place.path()).unwrap();
    let filled = whole.windows(64).position(|bytes| bytes == [7; 64]).unwrap();
    let flipped = |at: usize| {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x40;
        damaged
    };
    let damages = [
        b"not a ledger".to_vec(),
        vec![0; whole.len()],
        whole[..whole.len() / 2].to_vec(),
        whole[..100].to_vec(),
        [&whole[..4096], &vec![0; whole.len() - 4096]].concat(),
        flipped(3),
        flipped(filled + 30),
    ];
    for (case, damaged) in damages.iter().enumerate() {
        fs::write(place.path(), damaged).unwrap();
        let error = Ledger::open(place.kind()).await.expect_err(&format!("damage {case}"));
        assert!(matches!(error, LedgerError::Damaged { .. }), "damage {case}: {error}");
        assert!(error.to_string().contains("hint: restore a copy"), "{error}");
        let again = Ledger::open(place.kind()).await.expect_err(&format!("damage {case}, at the next start"));
        assert!(matches!(again, LedgerError::Damaged { .. }), "damage {case}: {again}");
    }
}

/// Records `count` results of `bytes` each, `at_once` at a time, that end in `life`.
async fn load(ledger: &Ledger, name: &str, count: usize, bytes: usize, at_once: usize, life: SignedDuration) {
    let mut records = JoinSet::new();
    for record in 0..count {
        if records.len() == at_once {
            records.join_next().await.unwrap().unwrap();
        }
        let (ledger, key) = (ledger.clone(), format!("{name}-{record}"));
        records.spawn(async move {
            let lease = mine(&ledger, &key).await;
            finish(lease, &vec![0; bytes], Timestamp::now() + life).await.unwrap();
        });
    }
    records.join_all().await;
}

#[tokio::test]
async fn records_that_wait_share_a_commit() {
    let place = Place::file();
    let ledger = place.open().await;
    let since = Instant::now();
    load(&ledger, "event", 2000, 1000, 200, SignedDuration::from_hours(1)).await;
    let (taken, commits) = (since.elapsed(), ledger.commits());
    println!("2000 records, 200 at once: {:.0}/s, {commits} commits", 2000.0 / taken.as_secs_f64());
    assert!(commits <= 200, "{commits} commits for 2000 records");
    assert_eq!(ledger.len().await, Ok(Some(2000)));
}

#[tokio::test]
async fn the_file_stays_bounded_under_steady_load() {
    let place = Place::file();
    let ledger = place.open().await;
    let mut largest = 0;
    for round in 0..50 {
        load(&ledger, &format!("round-{round}"), 1000, 1000, 250, SignedDuration::from_millis(50)).await;
        largest = largest.max(fs::metadata(place.path()).unwrap().len());
    }
    println!("50,000 records of 1000 bytes: {largest} bytes at most, {} commits", ledger.commits());
    assert!(largest < 20_000_000, "{largest} bytes for 50 MB written, of which little is alive at any time");
    // What is left is swept without being asked.
    let since = Instant::now();
    while ledger.len().await.unwrap() != Some(0) {
        assert!(since.elapsed() < LONG, "expired entries stay");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
