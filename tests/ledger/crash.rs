//! kill -9 while records are written: what was said to be recorded is there afterwards.

use std::{
    collections::HashSet,
    env,
    ffi::OsString,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use super::*;

const PATH: &str = "ICW_TEST_LEDGER_CRASH_PATH";
const FIRST: &str = "ICW_TEST_LEDGER_CRASH_FIRST";
const SEED: &str = "ICW_TEST_SEED";
const KILLS: usize = 12;

fn result(key: &str) -> Vec<u8> {
    key.as_bytes().iter().copied().cycle().take(3000).collect()
}

/// What [`what_was_recorded_survives_kill_9`] does as another process: records for ever, and says so.
async fn record_for_ever(path: OsString) {
    let first: usize = env::var(FIRST).unwrap().parse().unwrap();
    let ledger = Ledger::open(LedgerKind::File { path: path.into() }).await.unwrap();
    let mut records = tokio::task::JoinSet::new();
    for record in first.. {
        if records.len() == 16 {
            records.join_next().await.unwrap().unwrap();
        }
        let ledger = ledger.clone();
        records.spawn(async move {
            let key = format!("key-{record}");
            let mut lease = mine(&ledger, &key).await;
            if record % 4 == 0 {
                lease.write_note(&result(&key), later()).await.unwrap();
                println!("\nnoted {key}");
            }
            // Some end at once, so that the sweep is at work when the kill comes.
            if record % 3 == 0 {
                finish(lease, b"", past()).await.unwrap();
            } else {
                finish(lease, &result(&key), later()).await.unwrap();
                println!("\nrecorded {key}");
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_was_recorded_survives_kill_9() {
    if let Some(path) = env::var_os(PATH) {
        return record_for_ever(path).await;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = env::var(SEED).map_or(now.as_secs(), |seed| seed.parse().unwrap());
    println!("{SEED}={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let place = Place::file();
    let mut said: HashSet<String> = HashSet::new();
    for kill in 0..KILLS {
        let lines = random.usize(1..400);
        // A few lines are read, and then the kill comes wherever the child is by then.
        let pause = Duration::from_micros(random.u64(0..20_000));
        let path = place.path();
        let child = move || run_and_kill(&path, kill * 1_000_000, lines, pause);
        said.extend(tokio::task::spawn_blocking(child).await.unwrap());
        let ledger = place.open().await;
        for line in &said {
            match line.split_once(' ').unwrap() {
                ("recorded", key) => {
                    assert_eq!(recorded(&ledger, key).await, result(key), "{line}, kill {kill}, seed {seed}");
                }
                ("noted", key) => match claim(&ledger, key).await {
                    Claim::Mine(lease) if said.contains(&format!("recorded {key}")) => {
                        panic!("{lease:?}: {line}, kill {kill}, seed {seed}");
                    }
                    // It may have been recorded since, and have ended then: every twelfth is.
                    Claim::Mine(lease) => {
                        let number: usize = key[4..].parse().unwrap();
                        assert!(
                            lease.note() == Some(&result(key)) || number.is_multiple_of(3),
                            "{line}, seed {seed}"
                        );
                    }
                    Claim::Recorded(found) => assert_eq!(found, result(key)),
                    other => panic!("{other:?}: {line}, kill {kill}, seed {seed}"),
                },
                other => panic!("{other:?}"),
            }
        }
        ledger.close().await;
    }
    println!("{} notes and records survived {KILLS} kills", said.len());
}

/// What the child said before it was killed.
fn run_and_kill(path: &std::path::Path, first: usize, lines: usize, pause: Duration) -> Vec<String> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "ledger::crash::what_was_recorded_survives_kill_9", "--nocapture"])
        .env(PATH, path)
        .env(FIRST, first.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let told = |line: &String| line.starts_with("noted ") || line.starts_with("recorded ");
    let mut said: Vec<String> = output.by_ref().filter(told).take(lines).collect();
    assert_eq!(said.len(), lines, "the child ended by itself");
    std::thread::sleep(pause);
    child.kill().unwrap();
    child.wait().unwrap();
    // The last line may be cut off; a complete one ends where the next begins.
    let mut rest: Vec<String> = output.collect();
    rest.pop();
    said.extend(rest.into_iter().filter(told));
    said
}
