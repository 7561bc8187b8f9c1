//! Claims on keys within this process. Claimants of a key get it one at a time, in the order of their requests.

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

/// The keys that are claimed or waited for in this process.
#[derive(Default)]
pub(super) struct KeyClaims(Mutex<HashMap<String, Slot>>);

struct Slot {
    semaphore: Arc<Semaphore>,
    /// Number of claimants that hold or wait for the key; the last one removes the slot.
    users: usize,
    /// Fingerprint of the holder that acts; `None` while the holder is only looking the key up.
    acting: Option<Fingerprint>,
}

/// Result of [`KeyClaims::acquire`].
pub(super) enum Acquisition {
    Acquired(KeyGuard),
    /// The holder acts with another fingerprint.
    Conflict,
    /// The key was not free within the time limit.
    Busy,
}

/// The right to look a key up and to act on it, until the guard is dropped.
pub struct KeyGuard {
    // Released before the slot is left; see `Drop` of both types.
    _permit: OwnedSemaphorePermit,
    user: User,
}

/// A claimant that holds or waits for a key.
struct User {
    claims: Arc<KeyClaims>,
    key: String,
}

/// Leaves the keys out, because an event id may contain a phone number.
impl fmt::Debug for KeyClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyClaims({})", self.lock().len())
    }
}

impl KeyClaims {
    /// Waits for `key`, for at most `patience`.
    pub(super) async fn acquire(
        self: &Arc<Self>,
        key: &str,
        fingerprint: &Fingerprint,
        patience: Duration,
    ) -> Acquisition {
        let (semaphore, user) = {
            let mut slots = self.lock();
            let slot = slots.entry(key.to_owned()).or_insert_with(|| Slot {
                semaphore: Arc::new(Semaphore::new(1)),
                users: 0,
                acting: None,
            });
            if slot.acting.is_some_and(|acting| acting != *fingerprint) {
                return Acquisition::Conflict;
            }
            slot.users += 1;
            (slot.semaphore.clone(), User { claims: self.clone(), key: key.to_owned() })
        };
        match timeout(patience, semaphore.acquire_owned()).await {
            Ok(Ok(permit)) => Acquisition::Acquired(KeyGuard { _permit: permit, user }),
            Ok(Err(_)) | Err(_) => Acquisition::Busy,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeyGuard {
    /// Marks the holder as acting: a claimant with another fingerprint is refused immediately.
    pub(super) fn start_acting(&self, fingerprint: Fingerprint) {
        self.set_acting(Some(fingerprint));
    }

    /// Marks the holder as no longer acting, while it ends its claim in Redis before the guard is dropped.
    pub(super) fn stop_acting(&self) {
        self.set_acting(None);
    }

    fn set_acting(&self, fingerprint: Option<Fingerprint>) {
        if let Some(slot) = self.user.claims.lock().get_mut(&self.user.key) {
            slot.acting = fingerprint;
        }
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        self.stop_acting();
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

    async fn acquire(claims: &Arc<KeyClaims>) -> KeyGuard {
        match claims.acquire("k", &[1; 32], Duration::MAX).await {
            Acquisition::Acquired(guard) => guard,
            _ => panic!("the key was not acquired"),
        }
    }

    #[tokio::test]
    async fn unused_key_leaves_no_slot() {
        let claims = Arc::new(KeyClaims::default());
        let first = acquire(&claims).await;
        assert!(matches!(claims.acquire("k", &[1; 32], Duration::ZERO).await, Acquisition::Busy));
        let waiting = tokio::spawn({
            let claims = claims.clone();
            async move { drop(acquire(&claims).await) }
        });
        drop(first);
        waiting.await.unwrap();
        assert!(claims.lock().is_empty());
    }

    #[tokio::test]
    async fn acting_holder_refuses_another_fingerprint() {
        let claims = Arc::new(KeyClaims::default());
        let first = acquire(&claims).await;
        assert!(matches!(claims.acquire("k", &[2; 32], Duration::ZERO).await, Acquisition::Busy));
        first.start_acting([1; 32]);
        assert!(matches!(claims.acquire("k", &[2; 32], Duration::MAX).await, Acquisition::Conflict));
        drop(first);
        assert!(matches!(claims.acquire("k", &[2; 32], Duration::ZERO).await, Acquisition::Acquired(_)));
    }

    #[tokio::test]
    async fn next_holder_does_not_inherit_the_fingerprint() {
        let claims = Arc::new(KeyClaims::default());
        let first = acquire(&claims).await;
        first.start_acting([1; 32]);
        let (_second, ()) = tokio::join!(acquire(&claims), async { drop(first) });
        assert!(matches!(claims.acquire("k", &[2; 32], Duration::ZERO).await, Acquisition::Busy));
    }
}
