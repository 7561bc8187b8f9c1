//! Check of the ledger: can a worker open it, or does one use it already?

use std::path::Path;

use super::{CheckGroup, Finding};
use crate::{
    config::Loaded,
    ledger::{
        FileStatus, Ledger, LedgerError, LedgerKind,
        memory::{BYTES_MAX, ENTRIES_MAX},
    },
};

const WHAT: &str = "ledger";

pub(super) async fn run(loaded: &Loaded) -> Vec<Finding> {
    match loaded.ledger() {
        LedgerKind::Memory => {
            let mebibytes = BYTES_MAX / (1024 * 1024);
            let kept = format!("kept in memory: the latest {ENTRIES_MAX} entries, at most {mebibytes} MiB");
            vec![CheckGroup::Ledger.pass(WHAT, kept)]
        }
        LedgerKind::File { path } => vec![file(&path, Ledger::inspect(path.clone()).await)],
        kind @ LedgerKind::Redis { .. } => redis(kind).await,
    }
}

fn file(path: &Path, look: Result<FileStatus, LedgerError>) -> Finding {
    let path = path.display();
    match look {
        Ok(FileStatus::Ready(entries)) => {
            CheckGroup::Ledger.pass(WHAT, format!("{path} can be opened; {entries} entries"))
        }
        Ok(FileStatus::Repair) => CheckGroup::Ledger
            .pass(WHAT, format!("{path} was not closed cleanly; the worker repairs it at startup")),
        Ok(FileStatus::InUse) => CheckGroup::Ledger
            .pass(WHAT, format!("{path} is in use, probably by a running worker; contents not checked"))
            .advise("a second worker on this machine needs a ledger.path of its own"),
        Ok(FileStatus::Absent(folder)) => CheckGroup::Ledger
            .pass(WHAT, format!("{path} does not exist; the worker can create it in {}", folder.display())),
        Err(error) => failed(&error),
    }
}

fn failed(error: &LedgerError) -> Finding {
    let finding = CheckGroup::Ledger.fail(WHAT, error.problem());
    match error.hint() {
        Some(hint) => finding.advise(hint),
        None => finding,
    }
}

async fn redis(kind: LedgerKind) -> Vec<Finding> {
    let answer = async {
        let ledger = Ledger::open(kind).await?;
        ledger.ping().await?;
        Ok::<_, LedgerError>(ledger.info().await)
    };
    match answer.await {
        Err(error) => vec![failed(&error)],
        Ok(Ok(info)) => {
            let mut found = vec![CheckGroup::Ledger.pass(WHAT, "Redis responds and runs the ledger script")];
            found.extend(server(&info.unwrap_or_default()));
            found
        }
        Ok(Err(error)) => vec![
            CheckGroup::Ledger.pass(WHAT, "Redis responds and runs the ledger script"),
            CheckGroup::Ledger.warn(
                "ledger, Redis's settings",
                format!("could not read Redis's settings ({})", error.problem()),
                "allow the user to run INFO, or check that maxmemory-policy is noeviction and appendonly is yes",
            ),
        ],
    }
}

/// Findings about the fields of Redis's `INFO` that matter to the ledger.
pub(super) fn server(info: &str) -> Vec<Finding> {
    let get = |name: &str| {
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map_or("unknown", str::trim)
    };
    let (version, policy, memory) = (get("redis_version"), get("maxmemory_policy"), get("maxmemory"));
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    vec![
        match major {
            Some(major) if major < 5 => CheckGroup::Ledger.warn(
                "ledger, Redis's version",
                format!(
                    "{version}: the ledger script reads the clock before it writes, which needs Redis 5.0"
                ),
                "use Redis 6 or later",
            ),
            _ => CheckGroup::Ledger.pass("ledger, Redis's version", version),
        },
        match get("role") {
            "slave" => CheckGroup::Ledger.fail("ledger, Redis's role", "a replica, which accepts no writes")
                .advise("point ledger.url to the primary"),
            role => CheckGroup::Ledger.pass("ledger, Redis's role", role),
        },
        if policy == "noeviction" || memory == "0" {
            CheckGroup::Ledger.pass(
                "ledger, Redis's eviction",
                format!("maxmemory-policy {policy}, maxmemory {memory}: no entry is evicted"),
            )
        } else {
            CheckGroup::Ledger.warn(
                "ledger, Redis's eviction",
                format!(
                    "maxmemory-policy {policy}, maxmemory {memory}: entries may be evicted and their events processed twice"
                ),
                "set maxmemory-policy to noeviction",
            )
        },
        match get("aof_enabled") {
            "0" => CheckGroup::Ledger.warn(
                "ledger, Redis's durability",
                "appendonly is off: a restart of Redis loses the latest entries, and their events may be processed twice",
                "set appendonly to yes",
            ),
            aof => {
                CheckGroup::Ledger.pass("ledger, Redis's durability", if aof == "1" { "appendonly is on" } else { aof })
            }
        },
    ]
}
