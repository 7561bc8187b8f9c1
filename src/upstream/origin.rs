//! Tells an answer of Webex from one of somebody in between: a proxy, a load balancer, a captive portal.

use reqwest::header::HeaderMap;
use serde_json::{Map, Value};

use crate::contract::decode;

/// Largest refusal that is read, in bytes; Webex's have a few hundred.
pub(super) const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// The `Trackingid` of an answer, if it is plainly an id. Only Webex writes one.
pub(super) fn tracking_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get("trackingid")?.to_str().ok()?;
    let plain = !id.is_empty()
        && id.len() <= 128
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
    plain.then(|| id.to_owned())
}

/// Whether a refusal with this body, whose headers have no tracking id, can be Webex's: it has one of the fields that only
/// Webex's errors have (`errors` or `trackingId` of its APIs, `error_description` of a refused token). Gateways answer in JSON, too.
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
    fn only_a_json_object_with_fields_of_its_own_is_webexs_refusal() {
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
