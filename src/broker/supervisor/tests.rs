//! Tests of the loop with a scripted task, in paused time.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{broker::connection::BrokerError, stages, telemetry::metrics::Metrics};

const MAX: Duration = Duration::from_secs(2);

/// The end of one connection attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Refused,
    Mismatched,
    /// Established, then broken, after something was settled or not.
    Breaks {
        settles: bool,
    },
    /// Established until a stop is requested.
    Lasts,
}

struct Scripted {
    fates: Mutex<VecDeque<Fate>>,
    attempts: Mutex<Vec<Instant>>,
    settled: AtomicU64,
    /// `established` and `worked` of each failure.
    failures: Vec<(bool, bool)>,
    closed: AtomicU64,
    state: ConnectionState,
    metrics: ConnectionMetrics,
    stop: CancellationToken,
}

impl Scripted {
    fn new(fates: &[Fate]) -> Self {
        Self {
            fates: Mutex::new(fates.iter().copied().collect()),
            attempts: Mutex::default(),
            settled: AtomicU64::new(0),
            failures: Vec::new(),
            closed: AtomicU64::new(0),
            state: ConnectionState::default(),
            metrics: Metrics::off().stage(&stages::LINK).connection,
            stop: CancellationToken::new(),
        }
    }

    /// Waits between the attempts.
    fn waits(&self) -> Vec<Duration> {
        self.attempts.lock().unwrap().windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

fn ended() -> TopologyError {
    TopologyError::Broker(BrokerError::Ended("gone".to_owned()))
}

impl ConnectedTask for Scripted {
    type Ready = Fate;

    fn name(&self) -> &'static str {
        "link"
    }

    fn state(&self) -> &ConnectionState {
        &self.state
    }

    fn metrics(&self) -> &ConnectionMetrics {
        &self.metrics
    }

    async fn open(&self) -> Result<Fate, TopologyError> {
        self.attempts.lock().unwrap().push(Instant::now());
        let fate = self.fates.lock().unwrap().pop_front();
        match fate.unwrap_or(Fate::Lasts) {
            Fate::Refused => Err(ended()),
            Fate::Mismatched => Err(TopologyError::Mismatch("other arguments".to_owned())),
            fate => Ok(fate),
        }
    }

    async fn run(&mut self, ready: &Fate) -> Result<(), TopologyError> {
        assert!(self.state.is_up() && self.state.reason().is_none());
        if let Fate::Breaks { settles } = ready {
            self.settled.fetch_add(u64::from(*settles), Ordering::Relaxed);
            return Err(ended());
        }
        self.stop.cancelled().await;
        Ok(())
    }

    async fn close(&self, _ready: Fate) {
        assert!(!self.state.is_up());
        self.closed.fetch_add(1, Ordering::Relaxed);
    }

    async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    fn progress(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }

    fn log_connected(&self, _outage: Duration) {}

    fn gives_up(&self, error: &TopologyError) -> bool {
        matches!(error, TopologyError::Mismatch(_))
    }

    fn broken(&mut self, broken: &Broken<'_>) -> bool {
        self.failures.push((broken.established, broken.worked));
        false
    }
}

/// Supervises `task` and requests a stop after `time`.
async fn stopped_after(task: &mut Scripted, time: Duration) -> Result<(), TopologyError> {
    let stop = task.stop.clone();
    let stopper = tokio::spawn(async move {
        sleep(time).await;
        stop.cancel();
    });
    let ended = supervise(task, MAX, Random::system()).await;
    stopper.abort();
    ended
}

#[tokio::test(start_paused = true)]
async fn task_reconnects_until_stopped_and_closes_each_connection() {
    let breaks = |settles| Fate::Breaks { settles };
    let mut task = Scripted::new(&[Fate::Refused, breaks(true), breaks(false), Fate::Mismatched]);
    assert!(stopped_after(&mut task, Duration::from_secs(600)).await.is_ok());
    assert_eq!(task.failures, [(false, false), (true, true), (true, false), (false, false)]);
    assert_eq!((task.closed.into_inner(), task.attempts.into_inner().unwrap().len()), (3, 5));
    assert!(!task.state.is_up(), "closed by the stop");
}

#[tokio::test(start_paused = true)]
async fn waits_grow_up_to_the_maximum_and_restart_after_progress() {
    let mut fates = vec![Fate::Breaks { settles: false }; 20];
    fates.push(Fate::Breaks { settles: true });
    let mut task = Scripted::new(&fates);
    assert!(stopped_after(&mut task, Duration::from_secs(600)).await.is_ok());
    let waits = task.waits();
    assert!(waits[0] <= Duration::from_millis(200) && waits[19] >= MAX / 2, "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= MAX), "{waits:?}");
    assert!(waits[20] <= Duration::from_millis(200), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn task_gives_up_on_its_first_connection_only() {
    let mut task = Scripted::new(&[Fate::Refused, Fate::Mismatched]);
    let ended = stopped_after(&mut task, Duration::from_secs(600)).await;
    assert!(matches!(ended, Err(TopologyError::Mismatch(_))));
}

#[tokio::test(start_paused = true)]
async fn stop_ends_the_wait_for_the_next_attempt() {
    let mut task = Scripted::new(&[Fate::Refused; 1000]);
    let begun = Instant::now();
    assert!(stopped_after(&mut task, Duration::from_millis(4321)).await.is_ok());
    assert_eq!(begun.elapsed(), Duration::from_millis(4321));
    assert_eq!(task.state.reason().as_deref(), Some("gone"));
}
