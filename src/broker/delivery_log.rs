//! Logs the settlement of each delivery: one log line and one span, also if the delivery is dropped.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{Span, debug, error_span, info, warn};

use super::settle::{DeliveryContext, Settlement};
use crate::{outcome::Settled, telemetry::traces::DeliverySpan};

/// The log record of a delivery in progress. If dropped before settlement, it logs that the broker requeues the
/// delivery.
#[derive(Debug)]
pub(super) struct DeliveryLog {
    /// Holds the fields of the log lines.
    fields: Span,
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
        let (attempt, event_id, trace_id) =
            (attempts.saturating_add(1), context.event_id.as_str(), context.trace.trace_id());
        Self {
            // Of the highest level, so that lines of every level have its fields.
            fields: error_span!("delivery", event_id, trace_id, attempt, stage),
            attempt,
            begun,
            span,
            done: false,
        }
    }

    /// The `tracing` span in which the delivery is processed. Its fields are on each log line of the delivery.
    pub(super) fn fields(&self) -> Span {
        self.fields.clone()
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
                    parent: &self.fields,
                    outcome = settled.as_str(),
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
            Settled::Early => log_line!(debug, "not due yet; sent to a delay queue again"),
            Settled::Requeued => log_line!(info, "requeued; attempt not counted"),
            Settled::Dead(_) => log_line!(warn, "dead-lettered"),
            Settled::Unfulfilled => {
                log_line!(warn, "requeued: publishing or settling failed");
            }
            Settled::Lost => log_line!(warn, "not settled; the broker will redeliver the message"),
        }
    }
}

impl Drop for DeliveryLog {
    fn drop(&mut self) {
        if !self.done {
            let reason =
                "the worker stopped or panicked, or the time limit elapsed, before the delivery was settled"
                    .to_owned();
            self.write(&Settlement { settled: Settled::Requeued, reason: Some(reason), hold: None });
        }
    }
}
