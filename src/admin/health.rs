//! Liveness and readiness of the worker. Both follow from the worker's state, as its gauges do, so they never contradict
//! the metrics.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    contract::stage::StageDef,
    state::{ConnectionState, StageState, WorkerState},
};

/// An event loop without a tick for this long is stuck. It ticks once a second.
const LATE: Duration = Duration::from_secs(15);

/// The state of one worker; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    state: WorkerState,
    /// The stages that run in this worker.
    stages: Arc<[&'static StageDef]>,
    /// Maximum age of a delivery in progress; an older one should have been requeued long ago.
    work_age_max: Duration,
    ticked_at: Arc<Mutex<Instant>>,
    phase: Arc<Mutex<Phase>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Running,
    Ending,
}

/// The response to one probe, with its checks.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HealthReport {
    pub(super) ok: bool,
    checks: BTreeMap<String, HealthCheck>,
}

#[derive(Debug, Serialize)]
struct HealthCheck {
    ok: bool,
    detail: String,
}

impl Health {
    /// Health of a worker with these `stages`, which fails if a delivery is in progress for longer than `work_age_max`.
    #[must_use]
    pub(crate) fn new(state: &WorkerState, stages: &[&'static StageDef], work_age_max: Duration) -> Self {
        Self {
            state: state.clone(),
            stages: stages.into(),
            work_age_max,
            ticked_at: Arc::new(Mutex::new(Instant::now())),
            phase: Arc::new(Mutex::new(Phase::Starting)),
        }
    }

    /// Records a tick of the worker's event loop. The worker calls this once a second.
    pub(crate) fn turn(&self) {
        *self.ticked_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Records that the ledger is open, so only the connections are missing.
    pub(crate) fn start(&self) {
        self.set_phase(Phase::Running);
    }

    /// Records that the worker is shutting down.
    pub(crate) fn end(&self) {
        self.set_phase(Phase::Ending);
    }

    fn set_phase(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    pub(super) const fn state(&self) -> &WorkerState {
        &self.state
    }

    /// Liveness. Ignores the broker and Webex, because a restart would not help there.
    pub(super) fn live(&self) -> HealthReport {
        let idle = self.ticked_at.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        let mut checks = vec![(
            "eventLoop".to_owned(),
            HealthCheck { ok: idle < LATE, detail: format!("last tick {} s ago", idle.as_secs()) },
        )];
        for stage in self.stages.iter() {
            let age = self.state.stage(stage.name).oldest_work();
            let detail = match age {
                None => "nothing in progress".to_owned(),
                Some(age) => format!("oldest delivery in progress for {} s", age.as_secs()),
            };
            let ok = age.is_none_or(|age| age <= self.work_age_max);
            checks.push((format!("work.{}", stage.name), HealthCheck { ok, detail }));
        }
        HealthReport::of(checks)
    }

    /// Readiness: true if a new event would be processed now.
    pub(super) fn ready(&self) -> HealthReport {
        let mut checks = Vec::new();
        for stage in self.stages.iter() {
            let state = self.state.stage(stage.name);
            checks.push((format!("consuming.{}", stage.name), consuming(&state)));
            let accepted = !state.breaker.is_token_refused();
            let detail = if accepted { "not refused" } else { "refused" };
            let check = HealthCheck { ok: accepted, detail: detail.to_owned() };
            checks.push((format!("token.{}", stage.upstream.label), check));
        }
        checks.push(("publishing".to_owned(), self.publishing()));
        checks.push(("running".to_owned(), self.running()));
        HealthReport::of(checks)
    }

    fn running(&self) -> HealthCheck {
        let phase = *self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let detail = match phase {
            Phase::Starting => "starting: the ledger is being opened",
            Phase::Running => "running",
            Phase::Ending => "shutting down",
        };
        HealthCheck { ok: phase == Phase::Running, detail: detail.to_owned() }
    }

    fn publishing(&self) -> HealthCheck {
        let state = self.state.publishing();
        let (ok, detail) = match (state.connection.is_up(), state.is_blocked()) {
            (false, _) => return disconnected(&state.connection),
            (true, true) => (false, "blocked by the broker: it is short of memory or disk"),
            (true, false) => (true, "connected"),
        };
        HealthCheck { ok, detail: detail.to_owned() }
    }
}

fn disconnected(connection: &ConnectionState) -> HealthCheck {
    let reason = connection.reason().map_or_else(String::new, |reason| format!(": {reason}"));
    HealthCheck { ok: false, detail: format!("not connected to the broker{reason}") }
}

fn consuming(state: &StageState) -> HealthCheck {
    let (ok, detail) = match (state.connection.is_up(), state.breaker.is_open(), state.is_consuming()) {
        (false, ..) => return disconnected(&state.connection),
        (true, true, _) => {
            (false, "paused: the breaker is open (reason: see the metric breaker_opened_total)")
        }
        (true, false, false) => (false, "connected, but not consuming"),
        (true, false, true) => (true, "consuming"),
    };
    HealthCheck { ok, detail: detail.to_owned() }
}

impl HealthReport {
    fn of(checks: Vec<(String, HealthCheck)>) -> Self {
        Self { ok: checks.iter().all(|(_, check)| check.ok), checks: checks.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages;

    impl Health {
        /// Simulates a stuck event loop.
        pub(crate) fn grow_late(&self) {
            *self.ticked_at.lock().unwrap_or_else(PoisonError::into_inner) -= LATE;
        }

        pub(crate) fn is_alive(&self) -> bool {
            self.live().ok
        }
    }

    fn health(work_age_max: Duration) -> Health {
        Health::new(&WorkerState::default(), stages::ALL, work_age_max)
    }

    #[test]
    fn livez_fails_on_stalled_loop_or_stuck_work() {
        let health = health(Duration::ZERO);
        assert!(health.live().ok);
        let host = health.state.stage(stages::HOST.name);
        let work = host.begin();
        while host.oldest_work() == Some(Duration::ZERO) {}
        assert!(!health.live().ok && !health.live().checks["work.host"].ok);
        drop(work);
        assert!(health.live().ok);
        health.grow_late();
        assert!(!health.live().ok && !health.live().checks["eventLoop"].ok);
        health.turn();
        assert!(health.live().ok);
    }
}
