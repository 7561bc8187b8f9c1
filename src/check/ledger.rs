//! The ledger: whether a worker could open it, or is at it.

use std::path::Path;

use super::Finding;
use crate::{
    config::Loaded,
    ledger::{Ledger, LedgerError, LedgerKind, Look},
};

const WHAT: &str = "ledger";

pub(super) async fn look(loaded: &Loaded) -> Vec<Finding> {
    match loaded.ledger() {
        LedgerKind::Memory => vec![Finding::pass(WHAT, "in memory: there is nothing to open")],
        LedgerKind::File { path } => vec![file(&path, Ledger::look(path.clone()).await)],
        kind @ LedgerKind::Redis { .. } => redis(kind).await,
    }
}

fn file(path: &Path, look: Result<Look, LedgerError>) -> Finding {
    let path = path.display();
    match look {
        Ok(Look::Ready(entries)) => Finding::pass(WHAT, format!("{path} can be opened; {entries} entries")),
        Ok(Look::Repair) => {
            Finding::pass(WHAT, format!("{path} was not closed; the worker repairs it at its start"))
        }
        Ok(Look::InUse) => {
            Finding::pass(WHAT, format!("{path} is in use, as by a worker that runs; not looked into"))
                .advise("a second worker on this machine needs a ledger.path of its own")
        }
        Ok(Look::Absent(folder)) => Finding::pass(
            WHAT,
            format!("{path} is not there; the worker can make it in {}", folder.display()),
        ),
        Err(error) => Finding::fail(WHAT, without_kind(&error)),
    }
}

async fn redis(kind: LedgerKind) -> Vec<Finding> {
    let asked = async {
        let ledger = Ledger::open(kind).await?;
        ledger.ping().await?;
        Ok::<_, LedgerError>(ledger.info().await)
    };
    match asked.await {
        Err(error) => vec![Finding::fail(WHAT, without_kind(&error))],
        Ok(Ok(info)) => {
            let mut found = vec![Finding::pass(WHAT, "Redis answers, and runs the ledger's script")];
            found.extend(server(&info.unwrap_or_default()));
            found
        }
        Ok(Err(error)) => vec![
            Finding::pass(WHAT, "Redis answers, and runs the ledger's script"),
            Finding::warn(
                "ledger, Redis's settings",
                format!("could not be looked at ({})", without_kind(&error)),
                "let the user run INFO, or see that maxmemory-policy is noeviction and appendonly is on",
            ),
        ],
    }
}

/// The findings are of the ledger already.
fn without_kind(error: &LedgerError) -> String {
    let said = error.to_string();
    said.strip_prefix("ledger: ").unwrap_or(&said).to_owned()
}

/// What Redis's `INFO` says that matters to the ledger.
pub(super) fn server(info: &str) -> Vec<Finding> {
    let get = |name: &str| {
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map_or("unknown", str::trim)
    };
    let (version, policy, memory) = (get("redis_version"), get("maxmemory_policy"), get("maxmemory"));
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    vec![
        match major {
            Some(major) if major < 5 => Finding::warn(
                "ledger, Redis's version",
                format!(
                    "{version}: the ledger's script reads the clock and then writes, which comes with 5.0"
                ),
                "use Redis 6 or later",
            ),
            _ => Finding::pass("ledger, Redis's version", version),
        },
        match get("role") {
            "slave" => Finding::fail("ledger, Redis's role", "a replica, which takes no writes")
                .advise("have ledger.url name the primary"),
            role => Finding::pass("ledger, Redis's role", role),
        },
        if policy == "noeviction" || memory == "0" {
            Finding::pass(
                "ledger, Redis's eviction",
                format!("maxmemory-policy {policy}, maxmemory {memory}: no entry is dropped"),
            )
        } else {
            Finding::warn(
                "ledger, Redis's eviction",
                format!(
                    "maxmemory-policy {policy}, maxmemory {memory}: entries may be dropped, and events be served twice"
                ),
                "set maxmemory-policy to noeviction",
            )
        },
        match get("aof_enabled") {
            "0" => Finding::warn(
                "ledger, Redis's durability",
                "appendonly is off: a Redis that restarts has forgotten what it was told last, and events may be served twice",
                "set appendonly to yes",
            ),
            aof => {
                Finding::pass("ledger, Redis's durability", if aof == "1" { "appendonly is on" } else { aof })
            }
        },
    ]
}
