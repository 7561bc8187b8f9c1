//! Tries of messages that a worker may have died over. Each is noted in the ledger before the work begins, and taken back when the
//! work ends, however it ends. A try that stays noted is one that its worker did not outlive.
//!
//! The broker's own count does not tell: it grows with each connection that is lost, each requeue, and each worker that a
//! neighbour ended.

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
    clock,
    contract::{ids, message::Message},
    ledger::{Claim, Ledger, LedgerError},
    retry,
};

/// How long one worker waits for another that notes a try of the same message; longer than the lease of one that was killed.
const PATIENCE: Duration = Duration::from_secs(35);
/// How long a try is remembered after the last one began.
const KEEP: SignedDuration = SignedDuration::from_hours(24);
/// All notes of a key are of one message.
const FINGERPRINT: [u8; 32] = [0; 32];
/// Most keys of which tries are owed, or go on: as many as messages may be in progress.
const KEYS_MAX: usize = 65_536;

/// How often, and after which waits, the ledger is told again: for about a quarter of an hour.
const PAY_BACK_TRIES: u32 = 20;
const PAY_BACK_INITIAL: Duration = Duration::from_secs(1);
const PAY_BACK_MAX: Duration = Duration::from_secs(60);

/// The tries of all messages, in one ledger. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tries(Arc<TriesState>);

#[derive(Debug)]
struct TriesState {
    ledger: Ledger,
    /// Tries that have ended, and that the ledger may still have: it was down.
    owed: TryCounts,
    /// Tries that go on in this process. Together they are one note: copies of a message are one message.
    live: TryCounts,
    /// Tries that have begun and are not yet taken back.
    open: watch::Sender<usize>,
    /// The ledger failed the last time.
    down: AtomicBool,
}

/// What is noted of the tries of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Note {
    Nothing,
    Begin,
    End,
    Forget,
}

/// A try that has begun. Dropping it takes it back, too, in the background.
#[derive(Debug)]
pub(super) struct Try {
    tries: Tries,
    /// None once it is taken back or left.
    key: Option<String>,
}

/// The name in the ledger of the tries of `message` by the stage called `stage`.
pub(super) fn key(stage: &str, message: &Message) -> String {
    let named = message.message_id.as_ref().map_or(message.body.as_slice(), |id| id.as_bytes());
    format!("tried:{stage}:{}", ids::hash(named))
}

impl Tries {
    /// Keeps the tries in `ledger`.
    #[must_use]
    pub fn new(ledger: Ledger) -> Self {
        let (open, down) = (watch::Sender::new(0), AtomicBool::new(false));
        Self(Arc::new(TriesState { ledger, owed: Mutex::default(), live: Mutex::default(), open, down }))
    }

    /// How many tries of `key` were not outlived by their workers, or are still going on in other processes.
    pub(super) async fn unfinished(&self, key: &str) -> Result<u32, LedgerError> {
        self.said(self.change(key, Note::Nothing).await)
    }

    /// Notes durably that a try of `key` begins.
    pub(super) async fn begin(&self, key: &str) -> Result<Try, LedgerError> {
        self.said(self.change(key, Note::Begin).await)?;
        self.0.open.send_modify(|open| *open += 1);
        Ok(Try { tries: self.clone(), key: Some(key.to_owned()) })
    }

    /// Forgets all tries of `key`.
    pub(super) async fn forget(&self, key: &str) {
        // What is left of a message that is settled ends by itself.
        _ = self.change(key, Note::Forget).await;
    }

    /// Resolves when all tries that have ended are taken back.
    pub async fn idle(&self) {
        // The sender lives as long as this.
        _ = self.0.open.subscribe().wait_for(|open| *open == 0).await;
    }

    /// Changes what is noted of `key`; returns how many tries were not outlived by their workers.
    async fn change(&self, key: &str, note: Note) -> Result<u32, LedgerError> {
        // Any other claim of this key is as short.
        let Claim::Mine(mut lease) = self.0.ledger.claim(key, FINGERPRINT, PATIENCE).await? else {
            return Err(LedgerError::Lost);
        };
        let text = lease.note().and_then(|note| std::str::from_utf8(note).ok());
        let noted: u32 = text.and_then(|text| text.parse().ok()).unwrap_or(0);
        let (owed, live) = (get(&self.0.owed, key), get(&self.0.live, key));
        let deaths = noted.saturating_sub(owed).saturating_sub(u32::from(live > 0));
        let now = match note {
            Note::Nothing => deaths + u32::from(live > 0),
            Note::Begin => deaths.saturating_add(1),
            Note::End => deaths + u32::from(live > 1),
            Note::Forget => u32::from(live > 0),
        };
        if now == 0 {
            lease.release().await?;
        } else if now != noted {
            let until = clock::now().saturating_add(KEEP).unwrap_or(jiff::Timestamp::MAX);
            let written = lease.write_note(now.to_string().as_bytes(), until).await;
            if written.is_err() && now > noted {
                // The note may be there all the same.
                add(&self.0.owed, key);
            }
            written?;
        }
        subtract(&self.0.owed, key, owed);
        match note {
            Note::Begin => add(&self.0.live, key),
            Note::End => subtract(&self.0.live, key, 1),
            Note::Nothing | Note::Forget => {}
        }
        Ok(deaths)
    }

    fn said<T>(&self, result: Result<T, LedgerError>) -> Result<T, LedgerError> {
        match &result {
            Ok(_) => self.0.down.store(false, Ordering::Relaxed),
            Err(error) if !self.0.down.swap(true, Ordering::Relaxed) => warn!(
                %error,
                "the ledger can't note that a worker begins with a message that was delivered often before; such messages are worked \
                 on one at a time, and none is put aside as poison"
            ),
            Err(_) => {}
        }
        result
    }

    async fn take_back(self, key: String, all: bool) {
        let taken = self.change(&key, Note::End).await;
        let failed = taken.is_err();
        _ = self.said(taken);
        if failed {
            // This process knows better than the ledger from here on; the next one does only if the ledger is back before.
            subtract(&self.0.live, &key, 1);
            if get(&self.0.live, &key) == 0 {
                add(&self.0.owed, &key);
            }
            drop(tokio::spawn(self.pay_back(key)));
            return;
        }
        if all {
            self.forget(&key).await;
        }
        self.0.open.send_modify(|open| *open -= 1);
    }

    /// Tells the ledger what it still has to learn, as soon as that works.
    async fn pay_back(self, key: String) {
        for tries in 1..=PAY_BACK_TRIES {
            sleep(retry::reconnect_wait(PAY_BACK_INITIAL, PAY_BACK_MAX, tries, fastrand::f64())).await;
            if self.change(&key, Note::Nothing).await.is_ok() {
                break;
            }
        }
        self.0.open.send_modify(|open| *open -= 1);
    }
}

impl Try {
    /// It has ended, and its message is to come again.
    pub(super) async fn end(mut self) {
        self.spawn(false).await;
    }

    /// It has ended, and so has its message.
    pub(super) async fn end_all(mut self) {
        self.spawn(true).await;
    }

    /// It has ended as if its worker had died over it.
    pub(super) fn leave(mut self) {
        if let Some(key) = self.key.take() {
            subtract(&self.tries.0.live, &key, 1);
        }
        self.tries.0.open.send_modify(|open| *open -= 1);
    }

    /// A task of its own: whoever waits for it may be given up.
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
mod tests {
    use super::*;
    use crate::{ledger::LedgerKind, simulation};

    async fn memory() -> Tries {
        Tries::new(Ledger::open(LedgerKind::Memory).await.unwrap())
    }

    #[tokio::test]
    async fn only_a_try_that_does_not_end_is_counted() {
        let tries = memory().await;
        let begin = async || tries.begin("k").await.unwrap();
        begin().await.end().await;
        assert_eq!(tries.unfinished("k").await, Ok(0));
        drop(begin().await);
        tries.idle().await;
        assert_eq!(tries.unfinished("k").await, Ok(0));
        for deaths in 1..=3 {
            begin().await.leave();
            begin().await.end().await;
            assert_eq!(tries.unfinished("k").await, Ok(deaths));
        }
        assert_eq!(tries.unfinished("other").await, Ok(0));
        begin().await.end_all().await;
        assert_eq!(tries.unfinished("k").await, Ok(0), "its message is settled");
        begin().await.leave();
        tries.forget("k").await;
        assert_eq!(tries.unfinished("k").await, Ok(0));
    }

    #[tokio::test(start_paused = true)]
    async fn try_that_ends_while_the_ledger_is_down_is_no_death() {
        let (ledger, disk_is_out) = simulation::ledger();
        let tries = Tries::new(ledger);
        let died = tries.begin("k").await.unwrap();
        died.leave();
        let one = tries.begin("k").await.unwrap();
        disk_is_out(true);
        one.end().await;
        assert!(tries.unfinished("k").await.is_err());
        assert!(tries.begin("k").await.is_err());
        disk_is_out(false);
        tries.idle().await;
        for _ in 0..2 {
            assert_eq!(tries.unfinished("k").await, Ok(1));
        }
        assert!(locked(&tries.0.owed).is_empty() && locked(&tries.0.live).is_empty());
    }

    #[tokio::test]
    async fn copies_of_one_message_are_tried_as_one() {
        let tries = memory().await;
        let begin = async || tries.begin("k").await.unwrap();
        let (one, two) = (begin().await, begin().await);
        assert_eq!(tries.unfinished("k").await, Ok(0), "they go on");
        // As the next worker sees it.
        let next = Tries::new(tries.0.ledger.clone());
        assert_eq!(next.unfinished("k").await, Ok(1));
        one.end().await;
        assert_eq!(next.unfinished("k").await, Ok(1));
        two.end().await;
        assert_eq!(next.unfinished("k").await, Ok(0));
        assert!(locked(&tries.0.live).is_empty());
    }

    #[test]
    fn key_is_of_one_message_and_shows_nothing_of_it() {
        let message = |id: Option<&str>, body: &str| Message {
            message_id: id.map(str::to_owned),
            body: body.into(),
            ..Message::default()
        };
        let keys = [(None, "a"), (None, "b"), (Some("+34600111222"), "a"), (Some("m"), "a")]
            .map(|(id, body)| key("link", &message(id, body)));
        let different: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(different.len(), 4);
        assert!(keys.iter().all(|key| key.starts_with("tried:link:") && !key.contains("34600111222")));
        assert_eq!(key("link", &message(Some("m"), "b")), keys[3]);
        assert_ne!(key("host", &message(Some("m"), "b")), keys[3]);
    }
}
