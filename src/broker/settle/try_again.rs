//! Retries a message: puts a copy of it into a delay queue.

use std::time::Duration;

use jiff::Timestamp;
use lapin::BasicProperties;

use super::{DeliveryContext, Settlement, Settler, publish::Unpublished};
use crate::{
    breaker::{BreakerVerdict, Postponed},
    broker::{
        properties::{self, RetryHeaders},
        topology::Topology,
    },
    contract::{message::Message, trace::TraceContext},
    outcome::{Cause, Failure, Settled},
    retry::{self, AttemptHistory, Decision},
};

impl Settler {
    pub(super) async fn try_again(
        &self,
        context: &DeliveryContext,
        message: &Message,
        failure: &Failure,
        verdict: BreakerVerdict,
        now: Timestamp,
    ) -> Settlement {
        let history = AttemptHistory { attempts: message.attempts(), waited: message.waited() };
        let deadline = context.deadline;
        let (decision, postponed_to) = match verdict {
            BreakerVerdict::Postponed(Postponed { wait, max }) => {
                let left = Duration::try_from(deadline.duration_since(now)).unwrap_or_default();
                let (wait, delay) =
                    retry::postponed_for(self.topology.delays(), wait, max, left).unwrap_or((wait, wait));
                let delay = Some(delay).filter(|_| failure.retry_after.is_none());
                (retry::postpone(failure, history, deadline, now, wait), delay)
            }
            BreakerVerdict::Unclear(times) => {
                let wait = retry::wait(&self.retry, times, self.random.fraction());
                let wait = retry::shortened(wait, self.retry.initial, deadline, now);
                (retry::postpone(failure, history, deadline, now, wait), None)
            }
            BreakerVerdict::Own => {
                (retry::decide(&self.retry, failure, history, deadline, now, self.random.fraction()), None)
            }
        };
        let (at, attempts, waited) = match decision {
            Decision::Again { at, attempts, waited } => (at, attempts, waited),
            Decision::GiveUp(death) => return self.dead(context, message, &death).await,
        };
        let first_failed_at = message.first_failed_at().unwrap_or(now);
        let retry_headers =
            RetryHeaders { cause: failure.cause, attempts, waited, first_failed_at, not_before: at };
        let Some(delay) =
            postponed_to.or_else(|| retry::delay_for(self.topology.delays(), now, at, deadline))
        else {
            return self.unfulfilled(context, "no delay queue is configured".to_owned()).await;
        };
        let settled = match verdict {
            BreakerVerdict::Postponed(_) => Settled::Wait(failure.cause),
            BreakerVerdict::Unclear(_) | BreakerVerdict::Own => Settled::TryAgain(failure.cause),
        };
        let copy = |queue: &str, trace: &TraceContext| {
            properties::delayed(&context.properties, message, queue, trace, &retry_headers)
        };
        self.delay(context, delay, copy, &message.body, Settlement::of(settled, failure.reason.clone())).await
    }

    /// Delays a message whose event must not be processed now, because of `reason`. No attempt
    /// counts.
    pub async fn busy(
        &self,
        context: &DeliveryContext,
        message: &Message,
        reason: &str,
        postponed: Postponed,
    ) -> Settlement {
        let failure = Failure { cause: Cause::Busy, reason: reason.to_owned(), retry_after: None };
        self.try_again(context, message, &failure, BreakerVerdict::Postponed(postponed), self.clock.now())
            .await
    }

    /// Delays a message that came back before its time; no attempt counts. The next longer delay queue would have
    /// missed its session's deadline, which is not known here. So the message never waits past its time.
    pub async fn delay_again(
        &self,
        context: &DeliveryContext,
        message: &Message,
        at: Timestamp,
    ) -> Settlement {
        let Some(delay) = retry::delay_for(self.topology.delays(), self.clock.now(), at, at) else {
            return self.unfulfilled(context, "no delay queue is configured".to_owned()).await;
        };
        let settlement = Settlement::of(Settled::Early, None);
        let copy = |queue: &str, trace: &TraceContext| {
            properties::delayed_again(&context.properties, message, queue, trace)
        };
        self.delay(context, delay, copy, &message.body, settlement).await
    }

    async fn delay(
        &self,
        context: &DeliveryContext,
        delay: Duration,
        properties: impl FnOnce(&str, &TraceContext) -> BasicProperties,
        body: &[u8],
        settlement: Settlement,
    ) -> Settlement {
        let copy = self.copy(context, Topology::delay_queue(&self.queue, delay), properties, body);
        match self.publish(context, vec![copy], |_| ()).await {
            Ok(()) => {
                if let Settled::TryAgain(cause) | Settled::Wait(cause) = settlement.settled {
                    self.metrics.retried(cause);
                }
                self.metrics.held(delay);
                self.ack(context, Settlement { hold: Some(delay), ..settlement }).await
            }
            Err(Unpublished { error, .. }) => {
                let reason = settlement.reason.unwrap_or_else(|| "not due yet".to_owned());
                self.unfulfilled(context, format!("{reason}; publishing to the delay queue failed: {error}"))
                    .await
            }
        }
    }
}
