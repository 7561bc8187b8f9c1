//! A message that may have been sent: Webex Connect did not respond, or the worker crashed.
//!
//! Webex Connect has no idempotency key, and a request for the state of a message needs the id that a lost response had. So the only
//! proof is a receipt. The ingress notes each receipt in the ledger; the stage waits for it, and looks there before it sends again.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tracing::{info, warn};
use uuid::Uuid;

use super::{GuestSender, OnUnknown, SendStage};
use crate::{
    contract::{
        receipt::{ReceiptNote, SendNote, receipt_key},
        time::WireTime,
    },
    ledger::Lease,
    outcome::{Batch, Cause, Class, Death, Failure, Outcome},
    stages::SENDS_MAX,
    telemetry::metrics::labels::ResolvedBy,
};

/// Time that the wait for a receipt leaves for another send.
const REPEAT_TIME: SignedDuration = SignedDuration::from_secs(30);

/// Handling of a message that may have been sent.
pub(super) enum Resolution {
    /// It is sent again.
    Repeat,
    /// A receipt shows that it was sent.
    Sent,
    /// It waits for its receipt or for the API, or it is a dead letter.
    Stop(Outcome),
}

/// Meaning of `note` for a message with the last replay `replayed_at`. Only a later replay begins a new count: copies of one message may
/// have been replayed at different times.
pub(super) fn noted(note: Option<&[u8]>, replayed_at: Option<Timestamp>) -> SendNote {
    let noted = note.and_then(SendNote::read).filter(|noted| noted.replayed_at >= replayed_at);
    noted.unwrap_or(SendNote { replayed_at, ..SendNote::default() })
}

impl<C: GuestSender> SendStage<C> {
    /// Decides about the message `id`, which may have been sent as `noted` says.
    pub(super) async fn resolve(&self, noted: &SendNote, id: &Uuid, deadline: WireTime) -> Resolution {
        if self.rules.receipt_wait.is_some() {
            match self.deduplicator.read(&receipt_key(id)).await {
                Ok(bytes) if has_receipt(bytes.as_deref(), noted) => return Resolution::Sent,
                Ok(_) => {}
                Err(outcome) => return Resolution::Stop(outcome),
            }
        }
        if let Some(left) = self.receipt_may_come(noted, deadline) {
            return Resolution::Stop(Outcome::TryAgain(Failure {
                cause: Cause::Receipt,
                reason: "it may have been sent; waiting for its receipt (send.unknown_wait)".to_owned(),
                retry_after: Some(left),
            }));
        }
        if self.rules.on_unknown == OnUnknown::Dead || noted.sends >= SENDS_MAX {
            self.metrics.resolved(ResolvedBy::Dead);
            return Resolution::Stop(Outcome::Dead(maybe_sent(noted.sends)));
        }
        // Nothing is sent while the API does not respond: each attempt would count as one that may have sent the message, so that a
        // short outage would use up all of them.
        if let Err(mut error) = self.sender.try_api().await {
            warn_in(&mut error.reason);
            return Resolution::Stop(error.into_outcome());
        }
        warn!(sends = noted.sends, "sending a guest link again: an earlier attempt may have sent it");
        Resolution::Repeat
    }

    /// Time for which a receipt may still come; `None` if the wait is over. There is no wait that would leave less than [`REPEAT_TIME`]
    /// before `deadline`, because a guest who gets two messages is better off than one who gets none.
    fn receipt_may_come(&self, noted: &SendNote, deadline: WireTime) -> Option<Duration> {
        let wait = SignedDuration::try_from(self.rules.receipt_wait?).ok()?;
        let until = noted.sent_at?.checked_add(wait).ok()?;
        if until.checked_add(REPEAT_TIME).ok()? >= deadline.timestamp() {
            return None;
        }
        // The clock of the worker that sent it may be ahead.
        let left = until.duration_since(self.deduplicator.clock().now()).min(wait);
        Duration::try_from(left).ok().filter(|left| !left.is_zero())
    }

    /// Ends the message because of its receipt.
    pub(super) async fn receipt_found(
        &self,
        lease: Option<Lease>,
        noted: &SendNote,
        expires_at: WireTime,
    ) -> Outcome {
        info!(
            sends = noted.sends,
            "not sending a guest link again: a receipt shows that Webex Connect has it"
        );
        self.metrics.resolved(ResolvedBy::Receipt);
        self.record(lease, noted, expires_at).await;
        Outcome::DoneBefore(Batch::default())
    }
}

/// True if `bytes` note a receipt of the message.
fn has_receipt(bytes: Option<&[u8]>, noted: &SendNote) -> bool {
    bytes.and_then(ReceiptNote::read).is_some_and(|receipt| noted.may_have(&receipt))
}

/// Says in the reason of a failure that the message may have been sent, because an operator reads it before a replay.
pub(super) fn warn_in(reason: &mut String) {
    reason.push_str("; the message may have been sent");
}

/// `outcome`, whose reason says that the message may have been sent, if it is a death and `noted` counts a send.
pub(super) fn warned(mut outcome: Outcome, noted: &SendNote) -> Outcome {
    if let Outcome::Dead(death) = &mut outcome
        && noted.sends > 0
    {
        warn_in(&mut death.reason);
    }
    outcome
}

/// The death of a message that may have been sent `sends` times.
pub(super) fn maybe_sent(sends: u32) -> Death {
    let times = if sends == 1 { "once".to_owned() } else { format!("{sends} times") };
    Death::new(
        Class::Exhausted,
        format!("the message may have been sent {times} (send.on_unknown); a replay sends it again"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::receipt::MessageState;

    #[test]
    fn only_a_later_replay_begins_a_new_count() {
        let first = Timestamp::UNIX_EPOCH;
        let second = first + SignedDuration::from_secs(1);
        let replays = [None, Some(first), Some(second)];
        for (at, replayed_at) in replays.into_iter().enumerate() {
            let note = SendNote { sends: 2, replayed_at, ..SendNote::default() };
            let bytes = serde_json::to_vec(&note).unwrap();
            for (later, copy) in replays.into_iter().enumerate() {
                let expected = if later > at {
                    SendNote { replayed_at: copy, ..SendNote::default() }
                } else {
                    note.clone()
                };
                assert_eq!(noted(Some(&bytes), copy), expected, "{replayed_at:?} {copy:?}");
            }
        }
        assert_eq!(noted(None, None), SendNote::default());
        assert_eq!(noted(Some(b"x"), None), SendNote::default());
    }

    #[test]
    fn receipt_from_before_the_last_replay_does_not_count() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let receipt = serde_json::to_vec(&ReceiptNote { state: MessageState::Failed, at: at(10) }).unwrap();
        let noted = |replayed_at| SendNote { sends: 1, replayed_at, ..SendNote::default() };
        for (replayed_at, counts) in
            [(None, true), (Some(at(9)), true), (Some(at(10)), true), (Some(at(11)), false)]
        {
            assert_eq!(has_receipt(Some(&receipt), &noted(replayed_at)), counts, "{replayed_at:?}");
        }
        assert!(!has_receipt(None, &noted(None)) && !has_receipt(Some(b"damaged"), &noted(None)));
    }

    #[test]
    fn receipt_of_an_earlier_session_with_the_same_id_does_not_count() {
        let received = Timestamp::UNIX_EPOCH;
        let receipt =
            serde_json::to_vec(&ReceiptNote { state: MessageState::Delivered, at: received }).unwrap();
        for (seconds, counts) in [(0, true), (299, true), (301, false), (3600, false)] {
            let noted = SendNote::default().again(received + SignedDuration::from_secs(seconds));
            assert_eq!(has_receipt(Some(&receipt), &noted), counts, "{seconds}");
            let repeated = noted.again(received + SignedDuration::from_hours(2));
            assert_eq!(has_receipt(Some(&receipt), &repeated), counts, "the first send counts: {seconds}");
        }
    }
}
