//! Points between two steps at which tests kill, signal, panic or hang this process, to check that no message is
//! lost. A build without debug assertions, such as every release, contains no points.
//!
//! `FAULT_AT=sessions.taken:2:KILL` sends SIGKILL at the second pass of the step `taken` of the sessions queue.
//! `PANIC` instead of a signal name panics there, and `HANG` blocks its thread forever. A process with such a plan
//! logs each pass on standard error.

/// Passes the point after `step` of `scope`: a stage, a part of the worker or a queue. Only the last part of a
/// queue's name counts.
#[cfg(not(debug_assertions))]
#[inline]
pub(crate) const fn point(_scope: &str, _step: &str) {}

#[cfg(debug_assertions)]
pub(crate) use plan::point;

#[cfg(debug_assertions)]
mod plan {
    use std::{
        io::{Write, stderr},
        sync::{
            LazyLock,
            atomic::{AtomicU32, Ordering},
        },
        thread,
    };

    use rustix::process::{Signal, getpid, kill_process};

    enum FaultKind {
        Panic,
        Hang,
        Signal(Signal),
    }

    struct FaultPlan {
        point: String,
        /// Remaining passes until the signal.
        left: AtomicU32,
        kind: FaultKind,
    }

    static PLAN: LazyLock<Option<FaultPlan>> = LazyLock::new(|| {
        let text = std::env::var("FAULT_AT").ok()?;
        let mut parts = text.split(':').map(str::to_owned);
        let (point, passes) = (parts.next()?, parts.next()?);
        let kind = match parts.next()?.as_str() {
            "PANIC" => FaultKind::Panic,
            "HANG" => FaultKind::Hang,
            "KILL" => FaultKind::Signal(Signal::KILL),
            "STOP" => FaultKind::Signal(Signal::STOP),
            "TERM" => FaultKind::Signal(Signal::TERM),
            _ => return None,
        };
        Some(FaultPlan { point, left: AtomicU32::new(passes.parse().ok()?), kind })
    });

    pub(crate) fn point(scope: &str, step: &str) {
        let Some(plan) = &*PLAN else { return };
        let point = format!("{}.{step}", scope.rsplit('.').next().unwrap_or_default());
        // If standard error can't be written, the test has ended.
        _ = stderr().write_all(format!("fault point {point}\n").as_bytes());
        if point == plan.point && plan.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            match plan.kind {
                FaultKind::Panic => assert!(
                    point.is_empty(),
                    "with what a panic must not show: +34600000001 at https://instant.webex.com/visit/panic"
                ),
                FaultKind::Hang => hang(),
                // The signal arrives before this call returns. A `kill` of another process would leave the other threads
                // time to go on.
                FaultKind::Signal(signal) => _ = kill_process(getpid(), signal),
            }
        }
    }

    fn hang() -> ! {
        loop {
            thread::park();
        }
    }
}
