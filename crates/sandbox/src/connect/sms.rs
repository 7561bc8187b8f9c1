//! `POST /v2/messages`: SMS.

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::{
    guard::AcceptedRequest,
    limits::{
        CALLBACK_CHARS_MAX, DESTINATIONS_MAX, EXPIRE_AT_MAX, NUMBER_DIGITS, SENDER_ID_CHARS_MAX,
        SMS_CHARS_MAX, VALIDITY_S, code,
    },
    records::{RecordedSend, SentContent},
    refused::{ConnectRefusal, check_correlation_id, parse},
    state::ConnectHandle,
};
use crate::faults::Endpoint;

/// Values of `requestedReceipts`.
const RECEIPTS: [&str; 4] = ["SUBMITTED", "DELIVERED", "FAILED", "CLICKED"];

/// The request body. Unknown fields are ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PostedSms {
    channel: Option<String>,
    from: Option<String>,
    #[serde(default)]
    to: Vec<SmsRecipients>,
    content: Option<SmsContent>,
    send_at: Option<String>,
    expire_at: Option<String>,
    validity: Option<i64>,
    callback_data: Option<String>,
    requested_receipts: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SmsRecipients {
    #[serde(default)]
    msisdn: Vec<String>,
    correlation_id: Option<String>,
}

#[derive(Deserialize)]
struct SmsContent {
    r#type: Option<String>,
    text: Option<String>,
}

pub(super) async fn post(
    State(handle): State<ConnectHandle>,
    Extension(accepted): Extension<AcceptedRequest>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let posted =
        parse(body).and_then(|posted: PostedSms| posted.check(&handle).map(|expiry| (posted, expiry)));
    let (posted, expiry) = match posted {
        Ok(checked) => checked,
        Err(refusal) => return handle.refuse(Endpoint::Sms, &refusal),
    };
    let (at, id) = (Timestamp::now(), Uuid::new_v4().to_string());
    let correlation_id = posted.to.first().and_then(|to| to.correlation_id.clone());
    let answer = json!({
        "requestTimestamp": format!("{at:.3}"),
        "messageId": id,
        "correlationId": correlation_id,
        "status": "queued",
    });
    handle.accept(posted.sends(&id, at, expiry, &accepted));
    (StatusCode::CREATED, Json(answer)).into_response()
}

impl PostedSms {
    /// Checks all fields, and returns the expiry.
    fn check(&self, handle: &ConnectHandle) -> Result<Option<Timestamp>, ConnectRefusal> {
        match self.channel.as_deref() {
            None => return Err(ConnectRefusal::missing("channel")),
            Some("sms") => {}
            Some(_) => return Err(ConnectRefusal::invalid("channel", "sms")),
        }
        handle.check_sender(self.from.as_deref())?;
        self.check_recipients()?;
        let content = self.content.as_ref().ok_or_else(|| ConnectRefusal::missing("content"))?;
        content.check()?;
        if self.send_at.is_some() {
            return Err(ConnectRefusal::invalid("sendAt", "no value: the sandbox does not schedule"));
        }
        let receipts = self.requested_receipts.as_deref().unwrap_or_default();
        if receipts.iter().any(|receipt| !RECEIPTS.contains(&receipt.as_str())) {
            return Err(ConnectRefusal::invalid("requestedReceipts", &RECEIPTS.join(", ")));
        }
        if self.callback_data.as_ref().is_some_and(|data| data.chars().count() > CALLBACK_CHARS_MAX) {
            return Err(ConnectRefusal::invalid("callbackData", "at most 2000 characters"));
        }
        self.expiry()
    }

    fn check_recipients(&self) -> Result<(), ConnectRefusal> {
        let numbers = self.to.iter().flat_map(|to| &to.msisdn);
        match numbers.clone().count() {
            0 => return Err(ConnectRefusal::missing("to.msisdn")),
            1..=DESTINATIONS_MAX => {}
            _ => return Err(ConnectRefusal::new(code::TOO_MANY_DESTINATIONS, "to: at most 1000 numbers")),
        }
        if numbers.clone().any(|number| !number.strip_prefix('+').is_some_and(is_number)) {
            return Err(ConnectRefusal::new(code::ADDRESS, "to.msisdn: expected E.164 with +"));
        }
        self.to.iter().try_for_each(|to| check_correlation_id(to.correlation_id.as_deref()))
    }

    fn expiry(&self) -> Result<Option<Timestamp>, ConnectRefusal> {
        let now = Timestamp::now();
        match (&self.expire_at, self.validity) {
            (Some(_), Some(_)) => Err(ConnectRefusal::invalid("expireAt", "expireAt or validity, not both")),
            (Some(at), None) => {
                let at: Timestamp =
                    at.parse().map_err(|_| ConnectRefusal::invalid("expireAt", "a time in UTC"))?;
                if at <= now {
                    return Err(ConnectRefusal::new(code::MESSAGE_EXPIRED, "expireAt: the time is past"));
                }
                if at > now + EXPIRE_AT_MAX {
                    return Err(ConnectRefusal::invalid("expireAt", "at most 7 days ahead"));
                }
                Ok(Some(at))
            }
            (None, Some(seconds)) if VALIDITY_S.contains(&seconds) => {
                Ok(Some(now + jiff::SignedDuration::from_secs(seconds)))
            }
            (None, Some(_)) => Err(ConnectRefusal::invalid("validity", "1 to 259200 seconds")),
            (None, None) => Ok(None),
        }
    }

    fn sends(
        self,
        id: &str,
        at: Timestamp,
        expiry: Option<Timestamp>,
        accepted: &AcceptedRequest,
    ) -> Vec<RecordedSend> {
        let text = self.content.and_then(|content| content.text).unwrap_or_default();
        let to = self.to.into_iter().flat_map(|to| {
            let id = to.correlation_id;
            to.msisdn.into_iter().map(move |number| (number, id.clone()))
        });
        to.map(|(address, correlation_id)| RecordedSend {
            at,
            endpoint: Endpoint::Sms,
            id: id.to_owned(),
            correlation_id,
            address,
            from: self.from.clone(),
            content: SentContent::Text { text: text.clone() },
            url: first_url(&text),
            validity_s: self.validity,
            expiry,
            callback_data: self.callback_data.clone(),
            requested_receipts: self.requested_receipts.clone(),
            credential: accepted.credential,
            fault: accepted.fault.clone(),
        })
        .collect()
    }
}

impl SmsContent {
    fn check(&self) -> Result<(), ConnectRefusal> {
        match self.r#type.as_deref() {
            None => return Err(ConnectRefusal::missing("content.type")),
            Some("text" | "unicode") => {}
            Some(_) => {
                return Err(ConnectRefusal::new(
                    code::CONTENT_TYPE,
                    "content.type: expected text or unicode",
                ));
            }
        }
        match self.text.as_deref() {
            None | Some("") => Err(ConnectRefusal::missing("content.text")),
            Some(text) if text.chars().count() > SMS_CHARS_MAX => {
                Err(ConnectRefusal::new(code::LENGTH, "content.text: at most 4000 characters"))
            }
            Some(_) => Ok(()),
        }
    }
}

/// True for the digits of an E.164 number, without `+`.
pub(super) fn is_number(digits: &str) -> bool {
    NUMBER_DIGITS.contains(&digits.len())
        && !digits.starts_with('0')
        && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// The first link in a text, without punctuation that follows it.
fn first_url(text: &str) -> Option<String> {
    let start = text.find("https://").into_iter().chain(text.find("http://")).min()?;
    let end = text[start..].find(char::is_whitespace).map_or(text.len(), |length| start + length);
    Some(text[start..end].trim_end_matches(['.', ',', ';', ':', '!', '?', ')']).to_owned())
}

/// True for a number without `+`, a short code or an alphanumeric sender id.
pub(super) fn is_sender(from: &str) -> bool {
    let digits = from.bytes().all(|byte| byte.is_ascii_digit());
    let alphanumeric = from.len() <= SENDER_ID_CHARS_MAX
        && from.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b' ' | b'-' | b'_'));
    if digits { from.len() <= *NUMBER_DIGITS.end() } else { alphanumeric }
}
