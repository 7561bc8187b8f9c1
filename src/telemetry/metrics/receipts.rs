//! Metrics of receipts, and of messages that may have been sent.

use std::time::Duration;

use prometheus::{Error, HistogramVec, IntCounter, IntCounterVec, IntGauge};
use strum::VariantArray as _;

use super::{
    EVENT_BUCKETS,
    families::{Families, Recorder},
    labels::{FallbackReason, IngressRoute, Label, ReceiptRefused, ResolvedBy},
    ledger::LedgerFamilies,
};
use crate::contract::{
    people::Channel,
    receipt::{FailureCause, MessageState},
};

/// Label `cause` of a state that is no failure.
const NO_CAUSE: &str = "none";
const CHANNELS: [Channel; 2] = [Channel::Sms, Channel::Whatsapp];

/// The metric families of receipts.
#[derive(Debug)]
pub(super) struct ReceiptFamilies {
    receipts: IntCounterVec,
    refused: IntCounterVec,
    unknown_codes: IntCounter,
    delivered: HistogramVec,
    unknown_sends: IntCounterVec,
    fallbacks: IntCounterVec,
    awaited: IntGauge,
}

impl ReceiptFamilies {
    pub(super) fn new(families: &Families<'_>) -> Result<Self, Error> {
        let channels = || ("channel", CHANNELS.map(Channel::as_str).to_vec());
        let no_failure = MessageState::VARIANTS.iter().filter(|state| **state != MessageState::Failed);
        let receipts = families.counters(
            "receipts_total",
            "Published receipts of Webex Connect about messages to guests, including its repeats; cause is none unless the message failed.",
            &[channels(), ("state", no_failure.map(|state| state.as_str()).collect()), ("cause", vec![NO_CAUSE])],
        )?;
        for (channel, cause) in CHANNELS
            .iter()
            .flat_map(|channel| FailureCause::VARIANTS.iter().map(move |cause| (channel, cause)))
        {
            receipts.get_metric_with_label_values(&[
                channel.as_str(),
                MessageState::Failed.as_str(),
                cause.as_str(),
            ])?;
        }
        Ok(Self {
            receipts,
            refused: families.counters(
                "receipts_refused_total",
                "Receipts that were not published: unsigned (no signature or no key), signature and key (a wrong one) get 401; malformed (not readable) and foreign \
                 (of another program's message) get 200.",
                &[("reason", ReceiptRefused::texts())],
            )?,
            unknown_codes: families.counter(
                "receipt_codes_unknown_total",
                "Published receipts with a code that this program does not know.",
            )?,
            delivered: families.histograms(
                "link_to_delivered_seconds",
                "Time from publishing a guest link (AMQP timestamp in whole seconds) until the phone has the message, by the time in the first receipt \
                 that says so.",
                EVENT_BUCKETS,
                &[channels()],
            )?,
            unknown_sends: families.counters(
                "sends_unknown_total",
                "Messages that may have been sent, by what was done: receipt (a receipt shows that Webex Connect has it), repeat (it is sent again) or \
                 dead (it is a dead letter).",
                &[("resolved_by", ResolvedBy::texts())],
            )?,
            fallbacks: families.counters(
                "fallbacks_total",
                "Guest links given to stage sms because WhatsApp does not reach the guest, including repeats: rejected (the response of Webex \
                 Connect says so) or receipt (its receipt says so).",
                &[("reason", FallbackReason::texts())],
            )?,
            awaited: families.gauge(
                "receipts_awaited",
                "1 if Webex Connect should send receipts of the messages to guests (section receipts), else 0.",
            )?,
        })
    }
}

/// The metrics of receipts.
#[derive(Clone, Debug)]
pub struct ReceiptMetrics {
    pub(super) families: Recorder<ReceiptFamilies>,
    pub(super) ledger: Recorder<LedgerFamilies>,
}

impl ReceiptMetrics {
    /// Counts a published receipt.
    pub fn published(&self, channel: Channel, state: MessageState, cause: Option<FailureCause>) {
        let cause = cause.map_or(NO_CAUSE, Label::as_str);
        let labels = [channel.as_str(), state.as_str(), cause];
        self.families.record(|families| families.receipts.with_label_values(&labels).inc());
    }

    /// Counts a receipt that is not published.
    pub fn refused(&self, reason: ReceiptRefused) {
        self.families.record(|families| families.refused.with_label_values(&[reason.as_str()]).inc());
    }

    /// Counts a code that this program does not know.
    pub fn unknown_code(&self) {
        self.families.record(|families| families.unknown_codes.inc());
    }

    /// Records the time until the phone has the message.
    pub fn delivered(&self, channel: Channel, took: Duration) {
        let labels = [channel.as_str()];
        self.families
            .record(|families| families.delivered.with_label_values(&labels).observe(took.as_secs_f64()));
    }

    /// Tells whether messages to guests should have receipts.
    pub fn set_awaited(&self, awaited: bool) {
        self.families.record(|families| families.awaited.set(i64::from(awaited)));
    }

    /// Counts a failure of the ledger during a receipt.
    pub fn ledger_failed(&self) {
        self.ledger.record(|ledger| ledger.failed_at_ingress(IngressRoute::Receipts));
    }

    /// Counts a message that may have been sent.
    pub fn resolved(&self, by: ResolvedBy) {
        self.families.record(|families| families.unknown_sends.with_label_values(&[by.as_str()]).inc());
    }

    /// Counts a guest link that is sent by SMS, because `WhatsApp` does not reach the guest.
    pub fn fell_back(&self, reason: FallbackReason) {
        self.families.record(|families| families.fallbacks.with_label_values(&[reason.as_str()]).inc());
    }
}
