//! Settings that lose ledger entries.

use std::path::Path;

use crate::{
    check::{CheckGroup::Ledger, Finding, on},
    config::Loaded,
    ledger::LedgerKind,
    stages::OnFailure,
};

/// Folders that a restart may empty.
const TEMPORARY_FOLDERS: [&str; 5] = ["/tmp", "/var/tmp", "/dev/shm", "/run", "/var/run"];

pub(super) fn all(loaded: &Loaded) -> Vec<Finding> {
    vec![ledger(loaded), ledger_outage(loaded), retention(loaded)]
}

fn ledger(loaded: &Loaded) -> Finding {
    match loaded.ledger() {
        LedgerKind::Memory => on(Ledger, loaded, &["ledger.kind"]).warn(
            "the ledger is lost when the worker stops: an event that is repeated later is processed again: its guests and \
             experts get new messages, and its devices are dialled again",
            "set ledger.kind to file, with ledger.path on a persistent volume, or to redis",
        ),
        LedgerKind::Redis { .. } => on(Ledger, loaded, &["ledger.kind"]).pass("shared by all workers with this prefix"),
        LedgerKind::File { path } => file(loaded, &path),
    }
}

fn file(loaded: &Loaded, path: &Path) -> Finding {
    let about = on(Ledger, loaded, &["ledger.kind", "ledger.path"]);
    let advice = "set ledger.path to the absolute path of a file on a persistent volume";
    if path.is_relative() {
        let detail = format!(
            "{} is relative to the working directory: a worker in another directory or a new container starts with an empty ledger",
            path.display()
        );
        return about.warn(detail, advice);
    }
    if TEMPORARY_FOLDERS.iter().any(|folder| path.starts_with(folder)) {
        return about.warn("the file is in a temporary folder; a restart may empty it", advice);
    }
    about.pass("used by this worker only; its volume must be persistent")
}

fn ledger_outage(loaded: &Loaded) -> Finding {
    let about = on(Ledger, loaded, &["ledger.on_failure"]);
    match loaded.config.ledger.on_failure {
        OnFailure::Wait => about.pass("events wait while the ledger is unavailable"),
        OnFailure::Continue => about.warn(
            "while the ledger is unavailable, a repeated event is processed again: its guests and experts get new messages, and its devices are dialled again",
            "set ledger.on_failure to wait if duplicates are worse than a pause",
        ),
    }
}

fn retention(loaded: &Loaded) -> Finding {
    let about = on(Ledger, loaded, &["ledger.keep_max", "ledger.margin", "instant_connect.link_lifetime"]);
    let (ledger, lifetime) = (&loaded.config.ledger, loaded.config.instant_connect.link_lifetime.get());
    let needed = lifetime.saturating_add(ledger.margin.get());
    if ledger.keep_max.get() >= needed {
        return about.pass("ledger entries outlive the links");
    }
    about.warn(
        "ledger entries expire while the links are still valid: an event that is repeated later is processed again: its guests and \
         experts get new messages, and its devices are dialled again",
        format!("set ledger.keep_max to at least {needed:?}"),
    )
}
