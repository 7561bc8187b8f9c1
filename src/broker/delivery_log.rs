//! Logs the settlement of each delivery: one log line and one span, also if the delivery is dropped.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::settle::{DeliveryContext, Settlement};
use crate::{outcome::Settled, telemetry::traces::DeliverySpan};

/// The log record of a delivery in progress. If dropped before settlement, it logs that the broker requeues the
/// delivery.
#[derive(Debug)]
pub(super) struct DeliveryLog {
    stage: &'static str,
    event_id: String,
    trace_id: String,
    attempt: u32,
    begun: Instant,
    span: DeliverySpan,
    done: bool,
}

impl DeliveryLog {
    /// Starts the record. `attempts` is the number of attempts counted before; processing started at `begun`.
    pub(super) fn begin(
        stage: &'static str,
        context: &DeliveryContext,
        attempts: u32,
        begun: Instant,
        span: DeliverySpan,
    ) -> Self {
        Self {
            stage,
            event_id: context.event_id.clone(),
            trace_id: context.trace.trace_id().to_owned(),
            attempt: attempts.saturating_add(1),
            begun,
            span,
            done: false,
        }
    }

    /// Logs the settlement and closes the span.
    pub(super) fn settled(mut self, settlement: &Settlement) {
        self.done = true;
        self.write(settlement);
    }

    fn write(&mut self, Settlement { settled, reason, hold }: &Settlement) {
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
        macro_rules! log_line {
            ($level:ident, $text:literal) => {
                $level!(
                    event_id = self.event_id,
                    trace_id = self.trace_id,
                    stage = self.stage,
                    outcome = settled.as_str(),
                    attempt = self.attempt,
                    duration_ms = milliseconds(self.begun.elapsed()),
                    class = settled.class(),
                    reason,
                    hold_ms = hold.map(milliseconds),
                    $text
                )
            };
        }
        self.span.set("instant_connect.outcome", settled.as_str());
        self.span.set("instant_connect.attempt", i64::from(self.attempt));
        if let Some(reason) = reason {
            self.span.fail(settled.class().unwrap_or(settled.as_str()), reason);
        }
        match settled {
            Settled::Done => log_line!(info, "done"),
            Settled::TryAgain(_) => log_line!(info, "retry scheduled"),
            Settled::Wait(_) => log_line!(info, "deferred; attempt not counted"),
            Settled::Early => log_line!(debug, "not due yet; held again"),
            Settled::Requeued => log_line!(info, "returned to broker; attempt not counted"),
            Settled::Dead(_) => log_line!(warn, "dead-lettered"),
            Settled::Unfulfilled => {
                log_line!(warn, "returned to broker: outcome could not be carried out");
            }
            Settled::Lost => log_line!(warn, "not settled; the broker will redeliver the message"),
        }
    }
}

impl Drop for DeliveryLog {
    fn drop(&mut self) {
        if !self.done {
            let reason = "worker stopped or panicked before the delivery was settled".to_owned();
            self.write(&Settlement { settled: Settled::Requeued, reason: Some(reason), hold: None });
        }
    }
}
