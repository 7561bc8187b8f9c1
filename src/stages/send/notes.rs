//! What the ledger keeps of a message.

use jiff::Timestamp;

use super::{GuestJob, GuestSender, SendStage};
use crate::{
    contract::{
        receipt::{SendNote, SentLink},
        time::WireTime,
    },
    fault,
    ledger::Lease,
    outcome::Outcome,
};

/// Ledger result of a message that was sent while receipts are off.
const SENT: &[u8] = b"sent";

/// What is noted for the message with the last replay `replayed_at`.
pub(super) fn noted(lease: Option<&Lease>, replayed_at: Option<Timestamp>) -> SendNote {
    let noted = lease.and_then(Lease::note).and_then(SendNote::read);
    let noted = noted.filter(|noted| noted.replayed_at == replayed_at);
    noted.unwrap_or(SendNote { replayed_at, ..SendNote::default() })
}

impl<C: GuestSender> SendStage<C> {
    /// Records that the message is sent. Its receipts need what the note says about it.
    pub(super) async fn record(
        &self,
        lease: Option<Lease>,
        note: &SendNote,
        deadline: WireTime,
    ) -> Option<Outcome> {
        let kept = self.rules.receipt_wait.and_then(|_| serde_json::to_vec(note).ok());
        let recorded = self.deduplicator.record(lease, kept.as_deref().unwrap_or(SENT), deadline).await;
        fault::point(C::DEF.name, "recorded");
        recorded
    }

    /// What receipts repeat of the link; `None` if they are off.
    pub(super) fn about(&self, job: &GuestJob) -> Option<SentLink> {
        self.rules.receipt_wait?;
        let link = &job.link;
        Some(SentLink {
            event_id: link.event_id.clone(),
            session_id: link.session_id.clone(),
            correlation_id: link.correlation_id.clone(),
            attributes: link.attributes.clone(),
            published_at: job.published_at,
        })
    }
}
