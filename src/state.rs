//! The state that the worker's own decisions are based on. Consumers, breakers and connections write it; the watchdog and
//! the health checks read it. The metrics show it as gauges, which nothing reads back. Its size does not depend on the
//! load, except for one start time for each delivery in progress.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// The state of one worker; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct WorkerState {
    stages: Arc<Mutex<BTreeMap<&'static str, StageState>>>,
    publishing: PublishState,
}

impl WorkerState {
    /// The state of the stage `name`.
    #[must_use]
    pub fn stage(&self, name: &'static str) -> StageState {
        locked(&self.stages).entry(name).or_default().clone()
    }

    /// The state of the publisher.
    #[must_use]
    pub const fn publishing(&self) -> &PublishState {
        &self.publishing
    }
}

/// The state of one stage; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct StageState {
    /// The stage's connection to the broker.
    pub connection: ConnectionState,
    /// The breaker of the API that the stage calls.
    pub breaker: BreakerState,
    consuming: Flag,
    work: Arc<StartTimes>,
}

impl StageState {
    /// Records that the broker delivers, until the returned value is dropped.
    #[must_use]
    pub fn consuming(&self) -> RaisedFlag {
        self.consuming.raise()
    }

    /// True if the broker delivers.
    #[must_use]
    pub fn is_consuming(&self) -> bool {
        self.consuming.is_raised()
    }

    /// Records that a delivery is in progress, until the returned value is dropped.
    #[must_use]
    pub fn begin(&self) -> WorkInProgress {
        let number = self.work.taken.fetch_add(1, Ordering::Relaxed);
        locked(&self.work.since).insert(number, Instant::now());
        WorkInProgress { work: Arc::clone(&self.work), number }
    }

    /// Number of deliveries received so far.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.work.taken.load(Ordering::Relaxed)
    }

    /// Number of deliveries in progress.
    #[must_use]
    pub fn in_progress(&self) -> usize {
        locked(&self.work.since).len()
    }

    /// Age of the oldest delivery in progress.
    #[must_use]
    pub fn oldest_work(&self) -> Option<Duration> {
        locked(&self.work.since).first_key_value().map(|(_, since)| since.elapsed())
    }
}

/// Start times of the deliveries in progress. Numbers ascend, so the first is the oldest.
#[derive(Debug, Default)]
struct StartTimes {
    taken: AtomicU64,
    since: Mutex<BTreeMap<u64, Instant>>,
}

/// A delivery in progress. Dropping it ends the delivery, so cancelled work ends, too.
#[derive(Debug)]
pub struct WorkInProgress {
    work: Arc<StartTimes>,
    number: u64,
}

impl Drop for WorkInProgress {
    fn drop(&mut self) {
        locked(&self.work.since).remove(&self.number);
    }
}

/// The state of one connection to the broker; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ConnectionState {
    established: Flag,
    reason: Arc<Mutex<Option<String>>>,
}

impl ConnectionState {
    /// Records that the connection is established, until the returned value is dropped.
    #[must_use]
    pub fn up(&self) -> RaisedFlag {
        *locked(&self.reason) = None;
        self.established.raise()
    }

    /// True if the connection is established.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.established.is_raised()
    }

    /// Records the reason of a missing connection.
    pub fn down(&self, reason: String) {
        *locked(&self.reason) = Some(reason);
    }

    /// Reason of a missing connection, if known.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        locked(&self.reason).clone()
    }
}

/// The state of the publisher; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct PublishState {
    /// The publisher's connection to the broker.
    pub connection: ConnectionState,
    blocked: Switch,
}

impl PublishState {
    /// Records if the broker blocks publishing.
    pub fn set_blocked(&self, blocked: bool) {
        self.blocked.set(blocked);
    }

    /// True if the broker blocks publishing.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.blocked.get()
    }
}

/// The state of one breaker, as others see it; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct BreakerState {
    open: Switch,
    token_refused: Switch,
}

impl BreakerState {
    /// Records if the breaker is open.
    pub fn set_open(&self, open: bool) {
        self.open.set(open);
    }

    /// True if the breaker is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.get()
    }

    /// Records if the API refused our token at the last call.
    pub fn set_token_refused(&self, refused: bool) {
        self.token_refused.set(refused);
    }

    /// True if the API refused our token at the last call.
    #[must_use]
    pub fn is_token_refused(&self) -> bool {
        self.token_refused.get()
    }
}

#[derive(Clone, Debug, Default)]
struct Switch(Arc<AtomicBool>);

impl Switch {
    fn set(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A flag that is raised while at least one [`RaisedFlag`] exists.
#[derive(Clone, Debug, Default)]
struct Flag(Arc<AtomicUsize>);

impl Flag {
    fn raise(&self) -> RaisedFlag {
        self.0.fetch_add(1, Ordering::Relaxed);
        RaisedFlag(Arc::clone(&self.0))
    }

    fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// Keeps a flag raised until it is dropped.
#[derive(Debug)]
pub struct RaisedFlag(Arc<AtomicUsize>);

impl Drop for RaisedFlag {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn oldest_work_is_the_first_delivery_still_in_progress() {
        let stage = WorkerState::default().stage("link");
        let first = stage.begin();
        advance(Duration::from_secs(2)).await;
        let second = stage.begin();
        assert_eq!((stage.oldest_work(), stage.in_progress()), (Some(Duration::from_secs(2)), 2));
        drop(first);
        assert_eq!((stage.oldest_work(), stage.in_progress()), (Some(Duration::ZERO), 1));
        drop(second);
        assert_eq!((stage.oldest_work(), stage.taken()), (None, 2));
    }

    #[test]
    fn connection_is_up_until_its_last_guard_is_dropped() {
        let state = WorkerState::default();
        let connection = state.stage("link").connection;
        connection.down("refused".to_owned());
        assert_eq!(connection.reason().as_deref(), Some("refused"));
        let (one, another) = (connection.up(), state.stage("link").connection.up());
        assert_eq!((connection.reason(), connection.is_up()), (None, true));
        assert!(!state.stage("host").connection.is_up());
        drop(one);
        assert!(connection.is_up());
        drop(another);
        assert!(!connection.is_up());
    }
}
