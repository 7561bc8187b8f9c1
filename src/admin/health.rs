//! Whether the worker lives, and whether it is ready. What is said here is read from the metrics, so that the two never
//! contradict each other.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::telemetry::metrics::{
    ConnectionMetrics, Metrics, StageMetrics,
    labels::{Label, Stage, Upstream},
};

/// A worker whose event loop has not turned for this long is stuck. It turns once a second.
const LATE: Duration = Duration::from_secs(15);

/// The state of one worker; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    metrics: Metrics,
    /// Those that run here.
    stages: Arc<[Stage]>,
    /// Beyond this age, work should have been given back long ago.
    work_age_max: Duration,
    turned_at: Arc<Mutex<Instant>>,
    phase: Arc<Mutex<Phase>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Running,
    Ending,
}

/// The answer to one question, with what it is made of.
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
    /// Of a worker with these `stages`, none of whose work should grow older than `work_age_max`.
    #[must_use]
    pub(crate) fn new(metrics: &Metrics, stages: &[Stage], work_age_max: Duration) -> Self {
        Self {
            metrics: metrics.clone(),
            stages: stages.into(),
            work_age_max,
            turned_at: Arc::new(Mutex::new(Instant::now())),
            phase: Arc::new(Mutex::new(Phase::Starting)),
        }
    }

    /// The worker's event loop turns. To be called once a second.
    pub(crate) fn turn(&self) {
        *self.turned_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// The ledger is open: what is left is to connect.
    pub(crate) fn start(&self) {
        self.set_phase(Phase::Running);
    }

    /// The worker is shutting down.
    pub(crate) fn end(&self) {
        self.set_phase(Phase::Ending);
    }

    fn set_phase(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// All metrics.
    pub(super) const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether a restart would be no remedy: asks nothing about the broker or Webex.
    pub(super) fn live(&self) -> HealthReport {
        let turned = self.turned_at.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        let mut checks = vec![(
            "eventLoop".to_owned(),
            HealthCheck { ok: turned < LATE, detail: format!("turned {} s ago", turned.as_secs()) },
        )];
        for stage in self.stages.iter() {
            let age = self.metrics.stage(*stage).oldest_work();
            let detail = match age {
                None => "nothing in progress".to_owned(),
                Some(age) => format!("the oldest has been in progress for {} s", age.as_secs()),
            };
            let ok = age.is_none_or(|age| age <= self.work_age_max);
            checks.push((format!("work.{}", stage.as_str()), HealthCheck { ok, detail }));
        }
        HealthReport::of(checks)
    }

    /// Whether an event that comes now would be served.
    pub(super) fn ready(&self) -> HealthReport {
        let mut checks = Vec::new();
        for stage in self.stages.iter() {
            let metrics = self.metrics.stage(*stage);
            checks.push((format!("consuming.{}", stage.as_str()), consuming(&metrics)));
            let upstream = Upstream::of(*stage);
            let accepted = !metrics.breaker.is_token_refused();
            let detail = if accepted { "not refused" } else { "refused, or there is none to send" };
            let check = HealthCheck { ok: accepted, detail: detail.to_owned() };
            checks.push((format!("token.{}", upstream.as_str()), check));
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
        let metrics = self.metrics.publishing();
        let (ok, detail) = match (metrics.connection.is_up(), metrics.is_blocked()) {
            (false, _) => return unconnected(&metrics.connection),
            (true, true) => (false, "blocked by the broker: it is short of memory or disk"),
            (true, false) => (true, "connected"),
        };
        HealthCheck { ok, detail: detail.to_owned() }
    }
}

#[cfg(test)]
impl Health {
    /// As if the event loop had turned no more.
    pub(crate) fn grow_late(&self) {
        *self.turned_at.lock().unwrap_or_else(PoisonError::into_inner) -= LATE;
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.live().ok
    }
}

fn unconnected(connection: &ConnectionMetrics) -> HealthCheck {
    let why = connection.reason().map_or_else(String::new, |why| format!(": {why}"));
    HealthCheck { ok: false, detail: format!("not connected to the broker{why}") }
}

fn consuming(metrics: &StageMetrics) -> HealthCheck {
    let (ok, detail) = match (metrics.connection.is_up(), metrics.breaker.is_open(), metrics.is_consuming()) {
        (false, ..) => return unconnected(&metrics.connection),
        (true, true, _) => {
            (false, "paused: the breaker is open, see the metric breaker_opened_total for why")
        }
        (true, false, false) => (false, "connected, not consuming"),
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
    use strum::VariantArray as _;

    use super::*;

    fn health(work_age_max: Duration) -> Health {
        Health::new(&Metrics::new(&[]).unwrap(), Stage::VARIANTS, work_age_max)
    }

    #[test]
    fn an_event_loop_that_turns_no_more_and_work_that_never_ends_are_no_life() {
        let health = health(Duration::ZERO);
        assert!(health.live().ok);
        let work = health.metrics.stage(Stage::Host).begin();
        while health.metrics.stage(Stage::Host).oldest_work() == Some(Duration::ZERO) {}
        assert!(!health.live().ok && !health.live().checks["work.host"].ok);
        drop(work);
        assert!(health.live().ok);
        health.grow_late();
        assert!(!health.live().ok && !health.live().checks["eventLoop"].ok);
        health.turn();
        assert!(health.live().ok);
    }
}
