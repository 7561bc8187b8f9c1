//! Faults of the ledger file.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinSet;

use super::*;

#[tokio::test]
async fn reopened_file_contains_notes_and_results() {
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
async fn note_in_progress_is_visible_after_its_writer_is_dropped() {
    let ledger = Place::file().open().await;
    for n in 0..100 {
        let key = format!("k{n}");
        let mut lease = mine(&ledger, &key).await;
        // The write is started, but not awaited.
        _ = lease.write_note(b"n", later()).now_or_never();
        drop(lease);
        assert_eq!(mine(&ledger, &key).await.note(), Some(&b"n"[..]), "{key}");
    }
}

#[tokio::test]
async fn release_without_a_note_costs_no_commit() {
    let ledger = Place::file().open().await;
    mine(&ledger, "k").await.release().await.unwrap();
    assert_eq!(ledger.commits(), 0);
    record(&ledger, "k", b"r").await;
    assert_eq!(ledger.commits(), 1);
    record(&ledger, "l", b"r").await;
    assert_eq!(ledger.commits(), 2);
}

#[tokio::test]
async fn file_is_readable_by_its_owner_only() {
    let place = Place::file();
    let _ledger = place.open().await;
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.path()), 0o600);
    assert_eq!(mode(place.path().parent().unwrap()), 0o700);
}

#[tokio::test]
async fn second_open_is_refused_and_the_first_still_works() {
    let place = Place::file();
    let ledger = place.open().await;
    let error = Ledger::open(place.kind()).await.unwrap_err();
    assert_eq!(error, LedgerError::InUse { path: place.path() });
    assert!(error.to_string().contains("hint: give each worker its own ledger.path"), "{error}");
    record(&ledger, "k", b"r").await;
}

#[tokio::test]
async fn closed_ledger_returns_an_error() {
    let place = Place::file();
    let ledger = place.open().await;
    let lease = mine(&ledger, "k").await;
    ledger.close().await;
    assert_eq!(finish(lease, b"r", later()).await, Err(LedgerError::Closed));
    assert_eq!(ledger.ping().await, Err(LedgerError::Closed));
    assert_eq!(ledger.claim("k", BODY, LONG).await.unwrap_err(), LedgerError::Closed);
}

#[tokio::test]
async fn folder_instead_of_a_file_is_an_error_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let error = Ledger::open(LedgerKind::File { path: folder.path().to_owned() }).await.unwrap_err();
    assert!(error.to_string().contains(folder.path().to_str().unwrap()), "{error}");
    let below_a_file = folder.path().join("file/ledger");
    fs::write(folder.path().join("file"), "").unwrap();
    let error = Ledger::open(LedgerKind::File { path: below_a_file }).await.unwrap_err();
    assert!(matches!(error, LedgerError::File { .. }), "{error}");
}

#[tokio::test]
async fn damaged_file_is_refused_at_every_start() {
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

/// Records `count` results of `bytes` each, `at_once` at a time, that expire after `life`.
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
async fn waiting_records_share_a_commit() {
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
async fn file_size_is_bounded_under_steady_load() {
    let place = Place::file();
    let ledger = place.open().await;
    let mut largest = 0;
    for round in 0..50 {
        load(&ledger, &format!("round-{round}"), 1000, 1000, 250, SignedDuration::from_millis(50)).await;
        largest = largest.max(fs::metadata(place.path()).unwrap().len());
    }
    println!("50,000 records of 1000 bytes: {largest} bytes at most, {} commits", ledger.commits());
    assert!(largest < 20_000_000, "{largest} bytes for 50 MB written, most of them expired");
    // The remaining entries are swept automatically.
    let since = Instant::now();
    while ledger.len().await.unwrap() != Some(0) {
        assert!(since.elapsed() < LONG, "expired entries were not swept");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
