//! The ledger's part in a receipt: what it keeps of the message, and a note that the message has a receipt.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::{Receipts, unavailable};
use crate::{
    contract::{
        link::GuestLink,
        receipt::{MessageState, ReceiptNote, SendNote, SentLink, receipt_key, send_key},
    },
    ingress::problem::HttpProblem,
    ledger::{Claim, LedgerError},
    webex_connect::receipt::ReceivedReceipt,
};

/// Maximum time for the ledger.
const NOTE_MAX: Duration = Duration::from_secs(2);
/// Time for which a note is kept. Webex Connect gives an SMS up after three days, but nobody waits for a receipt so long.
const KEPT: SignedDuration = SignedDuration::from_hours(24);

/// The message of a receipt, as the ledger knows it.
#[derive(Debug, Default)]
pub(super) struct NotedMessage {
    pub(super) about: Option<SentLink>,
    /// The link of a message that `WhatsApp` does not deliver. Stage `sms` must send it.
    pub(super) by_sms: Option<GuestLink>,
}

impl Receipts {
    /// Notes the receipt, which came at `at`, and returns what the ledger knows of its message.
    ///
    /// # Errors
    /// The ledger is unavailable, and `ledger.on_failure` is `wait`.
    pub(super) async fn note(
        &self,
        receipt: &ReceivedReceipt,
        at: Timestamp,
        deadline: Instant,
    ) -> Result<NotedMessage, HttpProblem> {
        let until = (Instant::now() + NOTE_MAX).min(deadline);
        let (error, is_lost) = match timeout_at(until, self.noted(receipt, at)).await {
            Ok(Ok(noted)) => return Ok(noted),
            Ok(Err(error)) => (error.to_string(), error == LedgerError::Lost),
            Err(_) => ("ledger: no response in time".to_owned(), false),
        };
        // Lost: another receipt of the message is in progress.
        if !is_lost {
            self.metrics.ledger_failed();
        }
        // Only the ledger knows the link that stage `sms` must send.
        let needs_link = self.by_sms.is_some() && receipt.is_not_on_whatsapp();
        if needs_link {
            warn!(
                error,
                "ingress: ledger unavailable; refusing a receipt, because its guest may need the link by SMS"
            );
            return Err(unavailable("the ledger is unavailable"));
        }
        if self.without_ledger {
            warn!(
                error,
                "ingress: ledger unavailable; publishing a receipt without recording it in the ledger (ledger.on_failure=continue)"
            );
            return Ok(NotedMessage::default());
        }
        warn!(
            error,
            "ingress: ledger unavailable; refusing a receipt, which Webex Connect repeats (ledger.on_failure=wait)"
        );
        Err(unavailable("the ledger is unavailable"))
    }

    async fn noted(&self, receipt: &ReceivedReceipt, at: Timestamp) -> Result<NotedMessage, LedgerError> {
        let sent = self.ledger.read(&send_key(&receipt.message)).await?;
        let sent = sent.as_deref().and_then(SendNote::read).unwrap_or_default();
        let fingerprint = Sha256::digest(receipt.message.as_bytes()).into();
        let claim = self.ledger.claim(&receipt_key(&receipt.message), fingerprint, NOTE_MAX).await?;
        // Another receipt of the message takes longer than this one may.
        let Claim::Mine(mut lease) = claim else { return Err(LedgerError::Lost) };
        let known = lease.note().and_then(ReceiptNote::read).filter(|known| sent.may_have(known));
        let note = ReceiptNote::after(known, receipt.state, at);
        let until = at.saturating_add(KEPT).unwrap_or(Timestamp::MAX);
        lease.write_note(&serde_json::to_vec(&note).unwrap_or_default(), until).await?;
        let is_first = !known.is_some_and(|known| known.state.is_delivered());
        let SendNote { about, link, .. } = sent;
        if let Some(published) = about.as_ref().and_then(|about| about.published_at)
            && is_first
            && receipt.state.is_delivered()
        {
            let took = receipt.at.unwrap_or(at).duration_since(published);
            self.metrics.delivered(receipt.channel, Duration::try_from(took).unwrap_or_default());
        }
        let is_lost = receipt.is_not_on_whatsapp() && note.state == MessageState::Failed;
        let by_sms = link.filter(|link| is_lost && link.expires_at.timestamp() > at);
        Ok(NotedMessage { about, by_sms })
    }
}
