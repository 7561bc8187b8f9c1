//! Messages that may have killed a worker run one at a time, and each try is recorded. A message over which too many workers
//! died is dead-lettered as poison.

use std::{sync::Arc, time::Duration};

use tokio::{sync::OwnedMutexGuard, time::sleep};

use super::{Consumer, ConsumerLimits};
use crate::{
    broker::tries::{self, Tries, Try},
    contract::message::Message,
    outcome::Settled,
    stages::Stage,
};

/// From this many deliveries without an outcome, each try of a message is recorded in the ledger. A worker may have
/// died while processing it.
const ISOLATE_FROM: u32 = 3;
/// A single death accuses nobody: all messages in progress lose their worker together. From the second try on, messages
/// run one at a time.
const DEATHS_MIN: u32 = 2;
/// Isolated messages start in random order, spread over this time.
const ISOLATED_SPREAD_MS: u64 = 250;

impl ConsumerLimits {
    /// Number of deliveries without an outcome from which a try is recorded.
    pub(super) fn isolate_from(&self) -> u32 {
        isolate_from(self.deliveries_max)
    }

    /// Number of unfinished tries at which a message is dead-lettered. Each is a worker that died.
    pub(super) fn deaths_max(&self) -> u32 {
        deaths_max(self.deliveries_max)
    }
}

fn isolate_from(deliveries_max: u32) -> u32 {
    ISOLATE_FROM.min(deliveries_max.saturating_sub(DEATHS_MIN))
}

fn deaths_max(deliveries_max: u32) -> u32 {
    deliveries_max.saturating_sub(isolate_from(deliveries_max)).max(DEATHS_MIN)
}

/// The recorded try of an isolated message; empty for other messages.
#[derive(Default)]
pub(super) struct Trial {
    pub(super) deaths: Option<u32>,
    /// The key of a message that must be dead-lettered.
    key: Option<String>,
    recorded: Option<Try>,
    /// Held until the try is taken back, so that isolated messages are processed one at a time.
    turn: Option<OwnedMutexGuard<()>>,
}

impl Trial {
    /// Ends the try. `settled` is `Err(true)` after a panic and `Err(false)` if the time limit elapsed.
    pub(super) async fn end(self, tries: &Tries, settled: Result<Settled, bool>) {
        let gone = matches!(settled, Ok(Settled::Done | Settled::Dead(_)));
        match (self.recorded, settled) {
            (Some(recorded), Err(true)) => recorded.count_as_death(),
            (Some(recorded), _) if gone => recorded.end_and_forget().await,
            (Some(recorded), _) => recorded.end().await,
            (None, _) => {}
        }
        if let Some(key) = self.key.filter(|_| gone) {
            tries.forget(&key).await;
        }
        drop(self.turn);
    }
}

impl<S: Stage> Consumer<S> {
    /// Records that a try of `message` begins, if a worker may have died while processing it. Such messages run one
    /// at a time, so that no other message gets counted.
    pub(super) async fn trial(&self, message: &Message) -> Trial {
        if message.deliveries() < self.limits.isolate_from() {
            return Trial::default();
        }
        let key = tries::key(S::DEF.name, message);
        let unfinished = self.tries.unfinished(&key).await;
        let deaths = *unfinished.as_ref().unwrap_or(&0);
        if deaths >= self.limits.deaths_max() {
            return Trial { deaths: Some(deaths), key: Some(key), ..Trial::default() };
        }
        let turn = if unfinished == Ok(0) {
            None
        } else {
            sleep(Duration::from_millis(self.random().u64(..ISOLATED_SPREAD_MS))).await;
            Some(Arc::clone(&self.isolated).lock_owned().await)
        };
        let recorded = if unfinished.is_ok() { self.tries.begin(&key).await.ok() } else { None };
        Trial { recorded, turn, ..Trial::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn one_death_never_makes_a_message_poison() {
        for (most, before, deaths) in
            [(1, 0, 2), (2, 0, 2), (3, 1, 2), (4, 2, 2), (5, 3, 2), (20, 3, 17), (90, 3, 87)]
        {
            assert_eq!((isolate_from(most), deaths_max(most)), (before, deaths), "{most}");
        }
    }
}
