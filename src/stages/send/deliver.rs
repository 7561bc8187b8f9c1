//! One delivery: claim, count, note, send, record.

use tokio::time::timeout;
use tracing::{info, warn};

use super::{
    GuestJob, GuestSender, SendError, SendStage,
    unknown::{self, Resolution, maybe_sent},
};
use crate::{
    contract::{
        outgoing::Outgoing,
        people::Channel,
        receipt::{SendNote, SentLink},
        time::WireTime,
    },
    fault,
    ledger::Lease,
    outcome::{Batch, Class, Death, Outcome},
    stages::{
        JobContext,
        deduplicator::{Begun, Deduplicator, WRITE_TIME},
    },
    telemetry::metrics::labels::{FallbackReason, ResolvedBy},
    upstream::{ErrorCause, UpstreamError},
    webex_connect::receipt::NOT_ON_WHATSAPP,
};

/// Ledger result of a message that was sent while receipts are off.
const SENT: &[u8] = b"sent";

impl<C: GuestSender> SendStage<C> {
    /// Sends `job`, unless it was already sent.
    pub(super) async fn deliver(&self, job: &GuestJob, context: &JobContext) -> Outcome {
        let JobContext { deadline, effect, digest, .. } = context;
        let lease = match self.deduplicator.begin(effect, *digest).await {
            Begun::Act(lease) => lease,
            Begun::Done => return Outcome::DoneBefore(Batch::default()),
            Begun::Stop(outcome) => return outcome,
        };
        fault::point(C::DEF.name, "claimed");
        let expires_at = job.link.expires_at;
        let noted = unknown::noted(lease.as_ref().and_then(Lease::note), job.replayed_at);
        // A release would remove the note of an earlier send, which counts for other copies of the message. A dropped lease keeps it.
        let has_note = lease.as_ref().is_some_and(|lease| lease.note().is_some());
        let noted_before = noted.sends > 0;
        if noted_before {
            match self.resolve(&noted, &job.id, *deadline).await {
                Resolution::Repeat => {}
                Resolution::Sent => return self.receipt_found(lease, &noted, expires_at).await,
                Resolution::Stop(outcome) => return outcome,
            }
        }
        // The time may have passed while the claim was awaited.
        if self.is_late(*deadline) {
            if noted_before {
                self.metrics.resolved(ResolvedBy::Dead);
            }
            if !has_note {
                Deduplicator::release(lease).await;
            }
            return unknown::warned(Outcome::Dead(self.too_late()), &noted);
        }
        let admitted = async {
            self.count(job, *digest).await?;
            self.await_turn().await
        };
        if let Err(outcome) = admitted.await {
            if !has_note {
                Deduplicator::release(lease).await;
            }
            return unknown::warned(outcome, &noted);
        }
        fault::point(C::DEF.name, "counted");
        self.send_noted(job, context, lease, &noted).await
    }

    /// Notes that `job` is about to be sent, and sends it. `noted`: what was noted before.
    async fn send_noted(
        &self,
        job: &GuestJob,
        context: &JobContext,
        mut lease: Option<Lease>,
        noted: &SendNote,
    ) -> Outcome {
        let (deadline, expires_at) = (context.deadline, job.link.expires_at);
        let link = (self.rules.receipt_wait.is_some() && self.falls_back()).then(|| job.link.clone());
        let sending =
            SendNote { about: self.about(job), link, ..noted.again(self.deduplicator.clock().now()) };
        let Ok(note) = serde_json::to_vec(&sending) else {
            return Outcome::Dead(Death::new(Class::Internal, "could not write the note of a message"));
        };
        // Waits for the ledger. A note that was given up and written late would count as a message that may have been sent.
        if let Some(outcome) = self.deduplicator.note_part(&mut lease, &note, expires_at).await {
            return outcome;
        }
        if noted.sends > 0 {
            self.metrics.resolved(ResolvedBy::Repeat);
        }
        fault::point(C::DEF.name, "noted");
        let sent = if self.is_late(deadline) {
            Err(SendError::Unsendable(self.too_late()))
        } else {
            self.sender.send(&job.link, &job.id, &context.trace, self.left(expires_at)).await
        };
        fault::point(C::DEF.name, "answered");
        match sent {
            Ok(accepted) => {
                info!(connect_id = accepted.id.as_deref().unwrap_or("none"), "guest link sent");
                self.record(lease, &sending, expires_at).await;
                Outcome::Done(Batch::default())
            }
            Err(error) => self.failed(error, job, lease, noted).await,
        }
    }

    /// Records a message that was sent, so that copies of the link send none. Its receipts need what the note says about it. Does not
    /// wait for long: without the record the ack still prevents a repeat, but a delivery that waits is repeated when the worker stops.
    pub(super) async fn record(&self, lease: Option<Lease>, note: &SendNote, expires_at: WireTime) {
        let kept = self.rules.receipt_wait.and_then(|_| serde_json::to_vec(note).ok());
        let record = self.deduplicator.record(lease, kept.as_deref().unwrap_or(SENT), expires_at);
        if !matches!(timeout(WRITE_TIME, record).await, Ok(None)) {
            warn!(
                "could not record a sent guest link in the ledger; if the link is delivered again, it is sent again"
            );
        }
        fault::point(C::DEF.name, "recorded");
    }

    /// Fields of the link that receipts repeat; `None` if they are off.
    fn about(&self, job: &GuestJob) -> Option<SentLink> {
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

    async fn failed(
        &self,
        error: SendError,
        job: &GuestJob,
        mut lease: Option<Lease>,
        noted: &SendNote,
    ) -> Outcome {
        let may_be_sent = matches!(&error, SendError::Failed(error) if error.unknown);
        // Without the ledger nobody counts how often it may have been sent.
        if may_be_sent && lease.is_none() {
            self.metrics.resolved(ResolvedBy::Dead);
            return Outcome::Dead(maybe_sent(1));
        }
        // The note of this attempt stays if the message may have been sent. Otherwise the earlier note returns, also if it counts
        // nothing: a write is repeated until the ledger works, and a release is not.
        if !may_be_sent && let Ok(note) = serde_json::to_vec(noted) {
            _ = self.deduplicator.note_part(&mut lease, &note, job.link.expires_at).await;
            fault::point(C::DEF.name, "released");
        }
        match error {
            SendError::Unsendable(death) => unknown::warned(Outcome::Dead(death), noted),
            SendError::Failed(error) if self.falls_back() && is_not_on_whatsapp(&error) => {
                self.by_sms(job, &error.reason)
            }
            SendError::Failed(mut error) => {
                if may_be_sent || noted.sends > 0 {
                    unknown::warn_in(&mut error.reason);
                }
                error.into_outcome()
            }
        }
    }

    fn falls_back(&self) -> bool {
        self.rules.sms_fallback && C::CHANNEL == Channel::Whatsapp
    }

    /// Gives the link to stage `sms`, because `WhatsApp` rejected it.
    fn by_sms(&self, job: &GuestJob, reason: &str) -> Outcome {
        match Outgoing::by_sms(&job.link, &job.id) {
            Ok(outgoing) => {
                warn!(reason, "WhatsApp rejected a guest link; sending it by SMS (send.sms_fallback)");
                self.metrics.fell_back(FallbackReason::Rejected);
                Outcome::Done(Batch { is_rejection: true, ..vec![outgoing].into() })
            }
            Err(_) => Outcome::Dead(Death::new(Class::Internal, "could not write a guest link for SMS")),
        }
    }
}

/// True if Webex Connect rejected the message because `WhatsApp` does not reach the guest. Other rejections are faults of the settings, or
/// the guest's or the tenant's decision.
fn is_not_on_whatsapp(error: &UpstreamError) -> bool {
    error.cause == ErrorCause::Request && error.code.is_some_and(|code| NOT_ON_WHATSAPP.contains(&code))
}
