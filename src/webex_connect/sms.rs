//! SMS (`POST /v2/messages`, "Send SMS message v2" in Webex Connect's developer reference).

use serde::Serialize;

use super::texts::{Encoding, SmsText};
use crate::contract::{people::PhoneNumber, private::Private};

/// Path of the API.
pub(crate) const PATH: &str = "/v2/messages";

/// Longest life of a message that the API accepts, in seconds: 72 hours.
const VALIDITY_MAX: u64 = 259_200;

/// The receipts that the worker can use.
const RECEIPTS: &[&str] = &["SUBMITTED", "DELIVERED", "FAILED"];

/// The request to send an SMS to one number.
#[derive(Debug, Serialize)]
pub(crate) struct SmsRequest<'a> {
    channel: &'static str,
    from: &'a str,
    to: [Recipient<'a>; 1],
    content: SmsBody<'a>,
    validity: u64,
    #[serde(rename = "requestedReceipts", skip_serializing_if = "<[_]>::is_empty")]
    requested_receipts: &'static [&'static str],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Recipient<'a> {
    msisdn: [&'a PhoneNumber; 1],
    correlation_id: &'a str,
}

#[derive(Debug, Serialize)]
struct SmsBody<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    text: &'a Private<String>,
}

impl<'a> SmsRequest<'a> {
    /// A message of the sender `from` with `text`, which receipts name by `correlation_id`. The carrier gives up after `validity`
    /// seconds; the API allows at most 72 hours. With `receipts`, Webex Connect is asked for them.
    #[must_use]
    pub(crate) fn new(
        from: &'a str,
        to: &'a PhoneNumber,
        text: &'a SmsText,
        correlation_id: &'a str,
        validity: u64,
        receipts: bool,
    ) -> Self {
        let kind = match text.encoding {
            Encoding::Gsm7 => "text",
            Encoding::Ucs2 => "unicode",
        };
        Self {
            channel: "sms",
            from,
            to: [Recipient { msisdn: [to], correlation_id }],
            content: SmsBody { kind, text: &text.text },
            validity: validity.clamp(1, VALIDITY_MAX),
            requested_receipts: if receipts { RECEIPTS } else { &[] },
        }
    }
}
