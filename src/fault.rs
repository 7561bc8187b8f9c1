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
        process::{Command, id},
        sync::{
            LazyLock,
            atomic::{AtomicU32, Ordering},
        },
        thread,
    };

    struct FaultPlan {
        point: String,
        /// Remaining passes until the signal.
        left: AtomicU32,
        signal: String,
    }

    static PLAN: LazyLock<Option<FaultPlan>> = LazyLock::new(|| {
        let text = std::env::var("FAULT_AT").ok()?;
        let mut parts = text.split(':').map(str::to_owned);
        let (point, passes, signal) = (parts.next()?, parts.next()?, parts.next()?);
        Some(FaultPlan { point, left: AtomicU32::new(passes.parse().ok()?), signal })
    });

    pub(crate) fn point(scope: &str, step: &str) {
        let Some(plan) = &*PLAN else { return };
        let point = format!("{}.{step}", scope.rsplit('.').next().unwrap_or_default());
        // If standard error can't be written, the test has ended.
        _ = stderr().write_all(format!("fault point {point}\n").as_bytes());
        if point == plan.point && plan.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            assert!(
                plan.signal != "PANIC",
                "with what a panic must not show: +34600000001 at https://instant.webex.com/visit/panic"
            );
            if plan.signal == "HANG" {
                hang();
            }
            // Without `unsafe`, only another process can send a signal.
            _ = Command::new("kill").args(["-s", &plan.signal, &id().to_string()]).status();
            if plan.signal == "KILL" {
                hang();
            }
        }
    }

    fn hang() -> ! {
        loop {
            thread::park();
        }
    }
}
