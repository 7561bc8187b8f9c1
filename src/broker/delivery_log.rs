//! Says what became of a delivery: one line in the log and one span, whatever the way it ended.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::settle::{DeliveryContext, Settlement};
use crate::{outcome::Settled, telemetry::traces::DeliverySpan};

/// A delivery that is worked on. Dropped before it was settled, it says that the broker has it back.
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
    /// `attempts` were counted before this one, which began at `begun`.
    pub(super) fn begin(
        stage: &'static str,
        ticket: &DeliveryContext,
        attempts: u32,
        begun: Instant,
        span: DeliverySpan,
    ) -> Self {
        Self {
            stage,
            event_id: ticket.event_id.clone(),
            trace_id: ticket.trace.trace_id().to_owned(),
            attempt: attempts.saturating_add(1),
            begun,
            span,
            done: false,
        }
    }

    /// The end.
    pub(super) fn settled(mut self, settlement: &Settlement) {
        self.done = true;
        self.say(settlement);
    }

    fn say(&mut self, Settlement { settled, reason, hold }: &Settlement) {
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
        macro_rules! say {
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
            Settled::Done => say!(info, "done"),
            Settled::TryAgain(_) => say!(info, "trying again later"),
            Settled::Wait(_) => say!(info, "waiting; nothing is counted"),
            Settled::Early => say!(debug, "too early; waiting on"),
            Settled::Requeued => say!(info, "given back to the broker; no attempt is counted"),
            Settled::Dead(_) => say!(warn, "dead letter"),
            Settled::Unfulfilled => {
                say!(warn, "given back to the broker; what was decided could not be done");
            }
            Settled::Lost => say!(warn, "not settled; the broker will deliver it again"),
        }
    }
}

impl Drop for DeliveryLog {
    fn drop(&mut self) {
        if !self.done {
            let reason = "the worker ended, or failed, before this was done".to_owned();
            self.say(&Settlement { settled: Settled::Requeued, reason: Some(reason), hold: None });
        }
    }
}
