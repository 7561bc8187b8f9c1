//! Records that were reported as written survive kill -9.

use std::{
    collections::HashSet,
    env,
    ffi::OsString,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::*;

const PATH: &str = "ICW_TEST_LEDGER_CRASH_PATH";
const FIRST: &str = "ICW_TEST_LEDGER_CRASH_FIRST";
const SEED: &str = "ICW_TEST_SEED";
const KILLS: usize = 12;

fn result(key: &str) -> Vec<u8> {
    key.as_bytes().iter().copied().cycle().take(3000).collect()
}

/// The child process of [`recorded_results_survive_kill_9`]: writes records forever and prints each.
async fn record_forever(path: OsString) {
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
            // Some records expire at once, so that the sweep runs when the kill comes.
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
async fn recorded_results_survive_kill_9() {
    if let Some(path) = env::var_os(PATH) {
        return record_forever(path).await;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = env::var(SEED).map_or(now.as_secs(), |seed| seed.parse().unwrap());
    println!("{SEED}={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let place = Place::file();
    let mut said: HashSet<String> = HashSet::new();
    for kill in 0..KILLS {
        let lines = random.usize(1..400);
        // The kill comes after some lines and a random pause.
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
                    // The key may have been recorded since, and every twelfth record expires at once.
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

/// The lines that the child printed before it was killed.
fn run_and_kill(path: &std::path::Path, first: usize, lines: usize, pause: Duration) -> Vec<String> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "ledger::crash::recorded_results_survive_kill_9", "--nocapture"])
        .env(PATH, path)
        .env(FIRST, first.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let is_record = |line: &String| line.starts_with("noted ") || line.starts_with("recorded ");
    let mut said: Vec<String> = output.by_ref().filter(is_record).take(lines).collect();
    assert_eq!(said.len(), lines, "the child ended before the kill");
    std::thread::sleep(pause);
    child.kill().unwrap();
    child.wait().unwrap();
    // The last line may be incomplete; a complete line ends where the next one begins.
    let mut rest: Vec<String> = output.collect();
    rest.pop();
    said.extend(rest.into_iter().filter(is_record));
    said
}
