//! The meaning of a response of Webex Connect.
//!
//! The responses of its two messaging APIs differ: SMS (v2) with a status, and a code in a refusal; `WhatsApp` (v1) with 200 and a code in
//! `response`, which is an object or an array. Both forms are read for both channels.

use serde_json::Value;

use super::codes::{self, ConnectApi, Meaning};
use crate::{
    contract::private::loggable_id,
    upstream::{ApiResponse, ErrorCause, Upstream, UpstreamError},
};

/// The largest code: all documented codes have four digits.
const CODE_MAX: u32 = 9999;

/// A message that Webex Connect accepted.
#[derive(Debug, PartialEq, Eq)]
pub struct AcceptedMessage {
    /// Webex Connect's id of the message (`messageId` or `transid`), in a form that may be logged.
    pub id: Option<String>,
}

/// A response that does not accept the message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) cause: ErrorCause,
    /// True if the message may have been sent.
    pub(super) unknown: bool,
    /// The code, if the response has one.
    pub(super) code: Option<u32>,
    /// The meaning of the response, and the reaction. Contains no text of the response.
    pub(super) reason: String,
}

impl Refused {
    /// The error of the call to `upstream`.
    pub(super) fn into_error(self, upstream: &Upstream, response: &ApiResponse) -> UpstreamError {
        UpstreamError {
            cause: self.cause,
            status: Some(response.status),
            unknown: self.unknown,
            reason: format!("{}: {}", upstream.name(), self.reason),
            retry_after: response.retry_after,
            code: self.code,
        }
    }
}

/// Reads a response of `api`. `waits` is true if it has a `Retry-After`.
///
/// # Errors
/// [`Refused`] unless Webex Connect accepted the message.
pub(super) fn read(
    api: ConnectApi,
    status: u16,
    waits: bool,
    body: &[u8],
) -> Result<AcceptedMessage, Refused> {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let is_success = (200..300).contains(&status);
    let code = code(&json);
    let refused = |cause, unknown, words: &str| {
        Err(Refused { cause, unknown, code, reason: format!("responded with {status}{words}") })
    };
    let Some(code) = code else {
        let is_accepted = matches!(status, 201 | 202) || (is_success && id(&json).is_some());
        if is_accepted {
            return Ok(AcceptedMessage { id: id(&json) });
        }
        let (cause, unknown, words) = without_code(status, body.is_empty() || json.is_object());
        let is_unprocessed = status == 503 && (waits || is_unavailable_page(body, &json));
        return refused(cause, unknown && !is_unprocessed, words);
    };
    let Some((meaning, words)) = codes::meaning(api, code) else {
        let words = format!(" with code {code}, which this program does not know");
        return refused(ErrorCause::Transient, is_success || status >= 500, &words);
    };
    let (cause, unknown) = match meaning {
        Meaning::Accepted if is_success => return Ok(AcceptedMessage { id: id(&json) }),
        Meaning::Accepted => (ErrorCause::Malformed, true),
        Meaning::Passing => (ErrorCause::Transient, false),
        Meaning::RateLimited => (ErrorCause::RateLimited, false),
        Meaning::Account => (ErrorCause::Token, false),
        Meaning::Rejected => (ErrorCause::Request, false),
        Meaning::Expired => (ErrorCause::SessionOver, false),
    };
    refused(cause, unknown, &format!(" with code {code}: {words}"))
}

/// Beginning of the page with which Envoy also responds if a server closed the connection after it had got the request.
const ENVOY_LOST_SERVER: &[u8] = b"upstream connect error or disconnect/reset before headers";

/// True if `body` is the 503 of a proxy or a load balancer that passed the request to no server. A 500, 502 or 504 does not show that.
fn is_unavailable_page(body: &[u8], json: &Value) -> bool {
    !body.is_empty() && !json.is_object() && !body.trim_ascii_start().starts_with(ENVOY_LOST_SERVER)
}

/// Cause, whether the message may have been sent, and words, for a response without a code and without the id of a message. A page that
/// is neither empty nor a JSON object is the response of a proxy or a load balancer.
fn without_code(status: u16, is_connect: bool) -> (ErrorCause, bool, &'static str) {
    match status {
        200..=299 => (ErrorCause::Malformed, true, " without a code and an id"),
        429 => (ErrorCause::RateLimited, false, ""),
        404 | 405 => (ErrorCause::Transient, false, ": check webex_connect.url"),
        407 | 421 | 423 | 425 => (ErrorCause::Transient, false, ""),
        408 | 500..=599 => (ErrorCause::Transient, true, ""),
        400..=499 if !is_connect => {
            (ErrorCause::Transient, false, " without a code: a proxy or load balancer responded")
        }
        401 | 403 => (ErrorCause::Token, false, ": check webex_connect.key or .jwt_secret"),
        400..=499 => (ErrorCause::Request, false, " without a code"),
        _ => (ErrorCause::Malformed, false, "; redirects are not followed"),
    }
}

/// The object in which a response has its fields: itself, `response`, or the first entry of `response`.
fn fields(json: &Value) -> &Value {
    match json.get("response") {
        Some(Value::Array(entries)) => entries.first().unwrap_or(&Value::Null),
        Some(response) => response,
        // A gateway of a user of Webex Connect nests it so.
        None => json.pointer("/detail/response_message").unwrap_or(json),
    }
}

/// The code, which is a number or a string. A longer number is no code, and may be a phone number.
fn code(json: &Value) -> Option<u32> {
    let code = match fields(json).get("code")? {
        Value::Number(code) => code.as_u64().and_then(|code| u32::try_from(code).ok()),
        Value::String(code) => code.trim().parse().ok(),
        _ => None,
    };
    code.filter(|code| *code <= CODE_MAX)
}

/// The id of the message, in a form that may be logged.
fn id(json: &Value) -> Option<String> {
    let fields = fields(json);
    let id = ["messageId", "transid"].into_iter().find_map(|name| match fields.get(name)? {
        Value::String(id) if !id.is_empty() => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    })?;
    Some(loggable_id(&id).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(id: &str) -> AcceptedMessage {
        AcceptedMessage { id: Some(id.to_owned()) }
    }

    fn read(status: u16, waits: bool, body: &[u8]) -> Result<AcceptedMessage, Refused> {
        super::read(ConnectApi::Messages, status, waits, body)
    }

    fn cause(status: u16, body: &str) -> (ErrorCause, bool) {
        let refused = read(status, false, body.as_bytes()).unwrap_err();
        (refused.cause, refused.unknown)
    }

    #[test]
    fn accepted_messages() {
        let sms = br#"{"requestTimestamp":"2026-11-21T10:00:01Z","messageId":"f3c1","correlationId":"0b5a","status":"queued"}"#;
        assert_eq!(read(201, false, sms), Ok(accepted("f3c1")));
        assert_eq!(read(202, false, sms), Ok(accepted("f3c1")));
        for whatsapp in [
            r#"{"response":[{"code":"1001","description":"Queued","transid":"6f9e","correlationid":"0b5a"}]}"#,
            r#"{"response":{"code":1002,"transid":"6f9e"}}"#,
        ] {
            assert_eq!(read(200, false, whatsapp.as_bytes()), Ok(accepted("6f9e")));
        }
    }

    #[test]
    fn code_decides_whatever_the_status_is() {
        for (status, body, expected) in [
            (400, r#"{"code":"7004","message":"no"}"#, ErrorCause::Request),
            (200, r#"{"response":{"code":"7004"}}"#, ErrorCause::Request),
            (200, r#"{"response":[{"code":7004}]}"#, ErrorCause::Request),
            (400, r#"{"detail":{"response_message":{"code":"7004"}}}"#, ErrorCause::Request),
            (500, r#"{"code":"7006"}"#, ErrorCause::Transient),
            (200, r#"{"response":{"code":"7006"}}"#, ErrorCause::Transient),
            (400, r#"{"code":"7020"}"#, ErrorCause::RateLimited),
            (200, r#"{"response":[{"code":"7020"}]}"#, ErrorCause::RateLimited),
            (403, r#"{"code":"7001"}"#, ErrorCause::Token),
            (200, r#"{"response":{"code":"7010"}}"#, ErrorCause::Token),
            (200, r#"{"response":{"code":"7705"}}"#, ErrorCause::SessionOver),
            (400, r#"{"code":7998}"#, ErrorCause::Transient),
        ] {
            assert_eq!(cause(status, body), (expected, false), "{status} {body}");
        }
    }

    #[test]
    fn status_decides_without_a_code() {
        for (status, expected, unknown) in [
            (401, ErrorCause::Token, false),
            (403, ErrorCause::Token, false),
            (400, ErrorCause::Request, false),
            (413, ErrorCause::Request, false),
            (415, ErrorCause::Request, false),
            (422, ErrorCause::Request, false),
            (404, ErrorCause::Transient, false),
            (405, ErrorCause::Transient, false),
            (429, ErrorCause::RateLimited, false),
            (407, ErrorCause::Transient, false),
            (408, ErrorCause::Transient, true),
            (500, ErrorCause::Transient, true),
            (502, ErrorCause::Transient, true),
            (503, ErrorCause::Transient, true),
            (504, ErrorCause::Transient, true),
            (302, ErrorCause::Malformed, false),
        ] {
            for body in ["", r#"{"code":null}"#, r#"{"message":"+34600111222"}"#] {
                assert_eq!(cause(status, body), (expected, unknown), "{status} {body}");
            }
        }
    }

    #[test]
    fn page_of_a_proxy_is_no_refusal() {
        for status in [400, 401, 402, 403, 410, 413, 451] {
            assert_eq!(cause(status, "<html>"), (ErrorCause::Transient, false), "{status}");
        }
    }

    /// RFC 9110, section 15.6.4: a 503 with `Retry-After` is overload or maintenance.
    #[test]
    fn unavailable_api_did_not_send_the_message() {
        for body in ["", "{}", "<html>", r#"{"message":"+34600111222"}"#] {
            let refused = |status| read(status, true, body.as_bytes()).unwrap_err();
            assert_eq!((refused(503).cause, refused(503).unknown), (ErrorCause::Transient, false), "{body}");
            for status in [408, 500, 502, 504] {
                assert!(refused(status).unknown, "{status} {body}");
            }
        }
        for (status, body, unknown) in [
            (503, "<html>", false),
            (503, "no healthy upstream", false),
            (503, "upstream connect error or disconnect/reset before headers. reset reason: reset", true),
            (500, "<html>", true),
            (502, "<html>", true),
            (504, "<html>", true),
        ] {
            assert_eq!(cause(status, body), (ErrorCause::Transient, unknown), "{status} {body}");
        }
        assert_eq!(cause(429, "<html>"), (ErrorCause::RateLimited, false));
        let code = read(503, true, br#"{"code":"7998"}"#).unwrap_err();
        assert!(code.unknown, "a code shows that Webex Connect processed the request");
    }

    #[test]
    fn unknown_code_of_a_success_or_a_failure_may_have_been_sent() {
        for (status, unknown) in [(200, true), (201, true), (400, false), (500, true)] {
            assert_eq!(cause(status, r#"{"code":"7998"}"#), (ErrorCause::Transient, unknown), "{status}");
        }
    }

    #[test]
    fn accepted_message_needs_no_id() {
        for (status, body) in
            [(201, ""), (202, "{}"), (200, r#"{"response":[{"code":"1001"}]}"#), (200, r#"{"code":"7501"}"#)]
        {
            assert_eq!(
                read(status, false, body.as_bytes()),
                Ok(AcceptedMessage { id: None }),
                "{status} {body}"
            );
        }
        assert_eq!(read(201, false, br#"{"messageId":48151}"#), Ok(accepted("48151")));
        let id = read(201, false, br#"{"messageId":"+34600111222 Ana"}"#).unwrap().id.unwrap();
        assert!(!id.contains("34600111222"), "{id}");
    }

    #[test]
    fn success_without_a_code_and_an_id_is_unknown() {
        for body in
            ["", "{}", "[]", "not JSON", r#"{"response":[]}"#, r#"{"messageId":""}"#, r#"{"response":null}"#]
        {
            assert_eq!(cause(200, body), (ErrorCause::Malformed, true), "{body}");
        }
    }

    #[test]
    fn reason_has_no_text_of_the_response() {
        for (status, body) in [
            (400, r#"{"code":"7004","message":"+34600111222 is invalid"}"#),
            (200, r#"{"response":{"code":"34600111222"}}"#),
            (200, r#"{"response":{"code":600111222}}"#),
            (500, "+34600111222"),
        ] {
            let reason = read(status, false, body.as_bytes()).unwrap_err().reason;
            assert!(!reason.contains("600111222"), "{reason}");
        }
    }
}
