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

/// Whether a refusal with this body, which has no tracking id, can be Webex's: it is a JSON object.
pub(super) fn is_webex(body: &[u8]) -> bool {
    decode::from_json::<Map<String, Value>>(body).is_ok_and(|fields| !fields.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_json_object_with_fields_is_webexs_refusal() {
        for body in [r#"{"message":"no","errors":[],"trackingId":"x"}"#, r#"{"error_description":"expired"}"#]
        {
            assert!(is_webex(body.as_bytes()), "{body}");
        }
        for body in ["", "{}", "[]", "null", "\"no\"", "404 page not found", "<html></html>", "{\"message\":"]
        {
            assert!(!is_webex(body.as_bytes()), "{body}");
        }
    }
}
