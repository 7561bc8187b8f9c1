//! Tries of messages that may have killed a worker. Each try is recorded in the ledger before processing starts, and
//! taken back when processing ends, with any result. A try that stays recorded means that its worker died.
//!
//! The broker's own count is not sufficient. It grows with each lost connection, each requeue, and each worker that
//! another message killed.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::SignedDuration;
use tokio::{runtime::Handle, sync::watch, time::sleep};
use tracing::warn;

use crate::{
    contract::{ids, message::Message},
    ledger::{Claim, Ledger, LedgerError},
    random::Random,
    retry,
};

/// Maximum wait for another worker that records a try of the same message. Longer than the lease of a killed worker.
const CLAIM_WAIT_MAX: Duration = Duration::from_secs(35);
/// Time for which tries are kept after the last one began.
const KEEP_FOR: SignedDuration = SignedDuration::from_hours(24);
/// The same for all entries, because a key already identifies the message.
const FINGERPRINT: [u8; 32] = [0; 32];
/// Maximum number of keys with tries in progress or not yet taken back: as many as messages may be in progress.
const KEYS_MAX: usize = 65_536;

/// Repeats and waits until the ledger accepts that a try is taken back: about a quarter of an hour.
const TAKE_BACK_TRIES: u32 = 20;
const TAKE_BACK_INITIAL: Duration = Duration::from_secs(1);
const TAKE_BACK_MAX: Duration = Duration::from_secs(60);

/// The tries of all messages, in one ledger. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tries(Arc<TriesState>);

#[derive(Debug)]
struct TriesState {
    ledger: Ledger,
    random: Random,
    /// Tries that have ended but may still be recorded, because the ledger was down.
    ended: TryCounts,
    /// Tries in progress in this process. Together they are one entry, because copies of a message are one message.
    live: TryCounts,
    /// Number of tries that have begun and are not yet taken back.
    open: watch::Sender<usize>,
    /// The last ledger operation failed.
    down: AtomicBool,
}

/// A change to the recorded tries of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Note {
    Nothing,
    Begin,
    End,
    Forget,
}

/// A try in progress. Dropping it also takes it back, in the background.
#[derive(Debug)]
pub(super) struct Try {
    tries: Tries,
    /// `None` once the try is taken back or counted as a death.
    key: Option<String>,
}

/// The ledger key for tries of `message` by the stage `stage`.
pub(super) fn key(stage: &str, message: &Message) -> String {
    let named = message.message_id.as_ref().map_or(message.body.as_slice(), |id| id.as_bytes());
    format!("tried:{stage}:{}", ids::hash(named))
}

impl Tries {
    /// Creates a record of tries in `ledger`. `random` spreads repeats.
    #[must_use]
    pub fn new(ledger: Ledger, random: Random) -> Self {
        let (open, down) = (watch::Sender::new(0), AtomicBool::new(false));
        let (ended, live) = (Mutex::default(), Mutex::default());
        Self(Arc::new(TriesState { ledger, random, ended, live, open, down }))
    }

    /// Number of tries of `key` whose worker died, or which are in progress in other processes.
    pub(super) async fn unfinished(&self, key: &str) -> Result<u32, LedgerError> {
        self.log_transition(self.change(key, Note::Nothing).await)
    }

    /// Durably records that a try of `key` begins. Runs in its own task, because the caller may be aborted: the ledger may write
    /// the record nevertheless, and then it is taken back.
    pub(super) async fn begin(&self, key: &str) -> Result<Try, LedgerError> {
        let (tries, key) = (self.clone(), key.to_owned());
        tries.0.open.send_modify(|open| *open += 1);
        let begin = async move {
            let begun = tries.log_transition(tries.change(&key, Note::Begin).await);
            if begun.is_err() {
                tries.0.open.send_modify(|open| *open -= 1);
            }
            begun.map(|_| Try { tries, key: Some(key) })
        };
        tokio::spawn(begin).await.unwrap_or_else(|error| {
            if error.is_panic() {
                self.0.open.send_modify(|open| *open -= 1);
            }
            Err(LedgerError::Lost)
        })
    }

    /// Forgets all tries of `key`.
    pub(super) async fn forget(&self, key: &str) {
        // Entries of a settled message expire.
        _ = self.change(key, Note::Forget).await;
    }

    /// Resolves when all ended tries are taken back.
    pub async fn idle(&self) {
        // The sender lives as long as `self`.
        _ = self.0.open.subscribe().wait_for(|open| *open == 0).await;
    }

    /// Changes the recorded tries of `key`; returns the number of tries whose worker died.
    async fn change(&self, key: &str, note: Note) -> Result<u32, LedgerError> {
        // Every other claim of this key is short too.
        let Claim::Mine(mut lease) = self.0.ledger.claim(key, FINGERPRINT, CLAIM_WAIT_MAX).await? else {
            return Err(LedgerError::Lost);
        };
        let text = lease.note().and_then(|note| std::str::from_utf8(note).ok());
        let recorded: u32 = text.and_then(|text| text.parse().ok()).unwrap_or(0);
        let (ended, live) = (get(&self.0.ended, key), get(&self.0.live, key));
        let deaths = recorded.saturating_sub(ended).saturating_sub(u32::from(live > 0));
        let now = match note {
            Note::Nothing => deaths + u32::from(live > 0),
            Note::Begin => deaths.saturating_add(1),
            Note::End => deaths + u32::from(live > 1),
            Note::Forget => u32::from(live > 0),
        };
        if now == 0 {
            lease.release().await?;
        } else if now != recorded {
            let until = self.0.ledger.clock().now().saturating_add(KEEP_FOR).unwrap_or(jiff::Timestamp::MAX);
            let written = lease.write_note(now.to_string().as_bytes(), until).await;
            if written.is_err() && now > recorded {
                // The entry may have been written nevertheless.
                add(&self.0.ended, key);
            }
            written?;
        }
        subtract(&self.0.ended, key, ended);
        match note {
            Note::Begin => add(&self.0.live, key),
            Note::End => subtract(&self.0.live, key, 1),
            Note::Nothing | Note::Forget => {}
        }
        Ok(deaths)
    }

    fn log_transition<T>(&self, result: Result<T, LedgerError>) -> Result<T, LedgerError> {
        match &result {
            Ok(_) => self.0.down.store(false, Ordering::Relaxed),
            Err(error) if !self.0.down.swap(true, Ordering::Relaxed) => warn!(
                %error,
                "could not read or update processing starts in the ledger; repeatedly delivered messages are processed one at a time, and worker crashes \
                 are not counted (no class poison)"
            ),
            Err(_) => {}
        }
        result
    }

    async fn take_back(self, key: String, all: bool) {
        let taken = self.change(&key, Note::End).await;
        let failed = taken.is_err();
        _ = self.log_transition(taken);
        if failed {
            // From now on this process knows more than the ledger. The next process does not, unless the ledger
            // recovers before.
            subtract(&self.0.live, &key, 1);
            if get(&self.0.live, &key) == 0 {
                add(&self.0.ended, &key);
            }
            drop(tokio::spawn(self.retry_take_back(key)));
            return;
        }
        if all {
            self.forget(&key).await;
        }
        self.0.open.send_modify(|open| *open -= 1);
    }

    /// Updates the ledger as soon as it works again.
    async fn retry_take_back(self, key: String) {
        for tries in 1..=TAKE_BACK_TRIES {
            let random = self.0.random.fraction();
            sleep(retry::reconnect_wait(TAKE_BACK_INITIAL, TAKE_BACK_MAX, tries, random)).await;
            if self.change(&key, Note::Nothing).await.is_ok() {
                break;
            }
        }
        self.0.open.send_modify(|open| *open -= 1);
    }
}

impl Try {
    /// Ends the try; the message will be redelivered.
    pub(super) async fn end(mut self) {
        self.spawn(false).await;
    }

    /// Ends the try of a settled message.
    pub(super) async fn end_and_forget(mut self) {
        self.spawn(true).await;
    }

    /// Ends the try as if its worker had died.
    pub(super) fn count_as_death(mut self) {
        if let Some(key) = self.key.take() {
            subtract(&self.tries.0.live, &key, 1);
        }
        self.tries.0.open.send_modify(|open| *open -= 1);
    }

    /// Runs in its own task, because the caller may be aborted.
    async fn spawn(&mut self, all: bool) {
        if let Some(key) = self.key.take() {
            _ = tokio::spawn(self.tries.clone().take_back(key, all)).await;
        }
    }
}

type TryCounts = Mutex<HashMap<String, u32>>;

fn locked(counts: &TryCounts) -> MutexGuard<'_, HashMap<String, u32>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

fn get(counts: &TryCounts, key: &str) -> u32 {
    locked(counts).get(key).copied().unwrap_or(0)
}

fn add(counts: &TryCounts, key: &str) {
    let mut counts = locked(counts);
    if counts.len() < KEYS_MAX || counts.contains_key(key) {
        *counts.entry(key.to_owned()).or_default() += 1;
    }
}

fn subtract(counts: &TryCounts, key: &str, tries: u32) {
    let mut counts = locked(counts);
    if let Some(left) = counts.get_mut(key) {
        *left = left.saturating_sub(tries);
        if *left == 0 {
            counts.remove(key);
        }
    }
}

impl Drop for Try {
    fn drop(&mut self) {
        if let (Some(key), Ok(runtime)) = (self.key.take(), Handle::try_current()) {
            drop(runtime.spawn(self.tries.clone().take_back(key, false)));
        }
    }
}

#[cfg(test)]
mod tests;
