//! The ledger's promises, tested for the kinds of ledger that a worker can use.

mod crash;
mod file;
mod redis;
#[macro_use]
pub(crate) mod suite;

use std::path::PathBuf;

use api::{Claim, Ledger, LedgerError, LedgerKind};
use instant_connect_worker::ledger as api;
use tempfile::TempDir;

use suite::*;
use testkit::redis_server::RedisServer;

/// The location of a ledger. Dropping it removes the ledger.
pub(crate) enum Place {
    Memory,
    File(TempDir),
    Redis(RedisServer),
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
}

impl Location for Place {
    async fn open(&self) -> Ledger {
        Ledger::open(self.kind()).await.unwrap()
    }

    fn is_shared(&self) -> bool {
        matches!(self, Self::Redis(_))
    }

    fn is_durable(&self) -> bool {
        !matches!(self, Self::Memory)
    }

    fn shown(&self) -> String {
        match self {
            Self::Memory => "Memory(1)".to_owned(),
            Self::File(_) => format!("File {{ path: \"{}\", .. }}", self.path().display()),
            Self::Redis(_) => {
                "Redis { connection: RedisConnection, prefix: \"icw:test:\", random: Random }".to_owned()
            }
        }
    }

    fn settings(&self) -> String {
        format!("{:?}", self.kind())
    }
}

mod memory {
    promises!(tokio::test, super::Place::Memory);
}

mod in_a_file {
    promises!(tokio::test, super::Place::file());
}

mod in_redis {
    promises!(tokio::test, super::Place::Redis(super::RedisServer::start()));
}

#[test]
fn memory_matches_the_model() {
    assert_matches_model(&Place::Memory, 500);
}

#[test]
fn file_matches_the_model() {
    assert_matches_model(&Place::file(), 50);
}

#[test]
fn redis_matches_the_model() {
    assert_matches_model(&Place::Redis(RedisServer::start()), 100);
}
