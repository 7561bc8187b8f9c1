//! Tells responses of Webex from responses of a proxy, a load balancer or a captive portal.

use reqwest::header::HeaderMap;
use serde_json::{Map, Value};

use crate::contract::decode;

/// Maximum size of an error body that is read, in bytes; those of Webex have a few hundred bytes.
pub(super) const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// The `Trackingid` header of a response, if its value has the form of an id. Only Webex sets this header.
pub(super) fn tracking_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get("trackingid")?.to_str().ok()?;
    let plain = !id.is_empty()
        && id.len() <= 128
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
    plain.then(|| id.to_owned())
}

/// True if this body of an error response without a tracking id can be from Webex. Such a body has a field that only
/// Webex errors have: `errors` or `trackingId` from the APIs, or `error_description` for a rejected token. Other JSON
/// bodies may be from gateways.
pub(super) fn is_webex(body: &[u8]) -> bool {
    decode::from_json::<Map<String, Value>>(body).is_ok_and(|fields| {
        let is = |name, holds: fn(&Value) -> bool| fields.get(name).is_some_and(holds);
        is("trackingId", Value::is_string)
            || is("errors", Value::is_array)
            || is("error_description", Value::is_string)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_object_with_webex_fields_is_a_webex_error() {
        for body in [r#"{"message":"no","errors":[],"trackingId":"x"}"#, r#"{"error_description":"expired"}"#]
        {
            assert!(is_webex(body.as_bytes()), "{body}");
        }
        for body in [
            "",
            "{}",
            "[]",
            "null",
            "\"no\"",
            "404 page not found",
            "<html></html>",
            "{\"message\":",
            r#"{"message":"no Route matched with those values"}"#,
            r#"{"error":"Forbidden","status":403,"path":"/v1/messages"}"#,
            r#"{"errors":"none","trackingId":7,"error_description":null}"#,
        ] {
            assert!(!is_webex(body.as_bytes()), "{body}");
        }
    }
}
