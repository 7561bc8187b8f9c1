//! Who acts on which key in this process. Claimants of a key take turns, in the order in which they came.

use std::{
    collections::{HashMap, hash_map},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::entry::Fingerprint;

/// The keys that somebody in this process has, or waits for.
#[derive(Default)]
pub(super) struct KeyClaims(Mutex<HashMap<String, Slot>>);

struct Slot {
    turn: Arc<Semaphore>,
    /// How many have or await the turn; the last one removes the slot.
    users: usize,
    /// What the one who acts came with; nobody does while it is only being looked up.
    acting: Option<Fingerprint>,
}

/// What came of waiting for a turn.
pub(super) enum Waited {
    Turn(KeyGuard),
    /// The one who acts came with another fingerprint.
    Conflict,
    /// It took longer than the claimant's patience.
    Busy,
}

/// The right to look a key up and to act on it, until it is dropped.
pub(crate) struct KeyGuard {
    // Given back before the slot is left, see `Drop` of both.
    _permit: OwnedSemaphorePermit,
    user: User,
}

/// One of those who have or await a turn.
struct User {
    claims: Arc<KeyClaims>,
    key: String,
}

/// Without the keys: an event's id may be somebody's number.
impl fmt::Debug for KeyClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyClaims({})", self.lock().len())
    }
}

impl KeyClaims {
    /// Waits for the turn on `key`, `patience` at most.
    pub(super) async fn turn(
        self: &Arc<Self>,
        key: &str,
        fingerprint: &Fingerprint,
        patience: Duration,
    ) -> Waited {
        let (turn, user) = {
            let mut slots = self.lock();
            let slot = slots.entry(key.to_owned()).or_insert_with(|| Slot {
                turn: Arc::new(Semaphore::new(1)),
                users: 0,
                acting: None,
            });
            if slot.acting.is_some_and(|acting| acting != *fingerprint) {
                return Waited::Conflict;
            }
            slot.users += 1;
            (slot.turn.clone(), User { claims: self.clone(), key: key.to_owned() })
        };
        match timeout(patience, turn.acquire_owned()).await {
            Ok(Ok(permit)) => Waited::Turn(KeyGuard { _permit: permit, user }),
            Ok(Err(_)) | Err(_) => Waited::Busy,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeyGuard {
    /// Its owner acts now: who comes with another fingerprint is refused at once.
    pub(super) fn act(&self, fingerprint: Fingerprint) {
        self.acting(Some(fingerprint));
    }

    /// Its owner acts no more, and ends the claim elsewhere before it leaves the turn to the next.
    pub(super) fn rest(&self) {
        self.acting(None);
    }

    fn acting(&self, fingerprint: Option<Fingerprint>) {
        if let Some(slot) = self.user.claims.lock().get_mut(&self.user.key) {
            slot.acting = fingerprint;
        }
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        self.rest();
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let mut slots = self.claims.lock();
        if let hash_map::Entry::Occupied(mut slot) = slots.entry(std::mem::take(&mut self.key)) {
            slot.get_mut().users -= 1;
            if slot.get().users == 0 {
                slot.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn turn(claims: &Arc<KeyClaims>) -> KeyGuard {
        match claims.turn("k", &[1; 32], Duration::MAX).await {
            Waited::Turn(turn) => turn,
            _ => panic!("no turn"),
        }
    }

    #[tokio::test]
    async fn nothing_is_kept_of_a_key_that_nobody_wants() {
        let claims = Arc::new(KeyClaims::default());
        let first = turn(&claims).await;
        assert!(matches!(claims.turn("k", &[1; 32], Duration::ZERO).await, Waited::Busy));
        let waits = tokio::spawn({
            let claims = claims.clone();
            async move { drop(turn(&claims).await) }
        });
        drop(first);
        waits.await.unwrap();
        assert!(claims.lock().is_empty());
    }

    #[tokio::test]
    async fn another_fingerprint_is_refused_by_who_acts_and_not_by_who_looks() {
        let claims = Arc::new(KeyClaims::default());
        let first = turn(&claims).await;
        assert!(matches!(claims.turn("k", &[2; 32], Duration::ZERO).await, Waited::Busy));
        first.act([1; 32]);
        assert!(matches!(claims.turn("k", &[2; 32], Duration::MAX).await, Waited::Conflict));
        drop(first);
        assert!(matches!(claims.turn("k", &[2; 32], Duration::ZERO).await, Waited::Turn(_)));
    }

    #[tokio::test]
    async fn who_acted_leaves_nothing_to_the_next() {
        let claims = Arc::new(KeyClaims::default());
        let first = turn(&claims).await;
        first.act([1; 32]);
        let (_second, ()) = tokio::join!(turn(&claims), async { drop(first) });
        assert!(matches!(claims.turn("k", &[2; 32], Duration::ZERO).await, Waited::Busy));
    }
}
