//! Signs requests for tests.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;

use super::{FileLine, GivenSignature, SigningSecret, given};

/// The headers of a request with this signature.
pub(in crate::ingress) fn headers(id: &str, seconds: &str, signature: &str) -> HeaderMap {
    let pairs = [("webhook-id", id), ("webhook-timestamp", seconds), ("webhook-signature", signature)];
    pairs
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
        .into_iter()
        .collect()
}

/// The signature of `body` at a time, with its version.
pub(in crate::ingress) fn signature(secret: &str, id: &str, seconds: i64, body: &[u8]) -> String {
    let prefix = format!("{id}.{seconds}.");
    let signature = SigningSecret::of(secret).unwrap().sign([prefix.as_bytes(), body]);
    given::versioned(&signature.unwrap())
}

/// A request that is signed now.
pub(in crate::ingress) fn signed(secret: &str, id: &str, body: &str) -> GivenSignature {
    let now = Timestamp::now();
    let signature = signature(secret, id, now.as_second(), body.as_bytes());
    GivenSignature::read(&headers(id, &now.as_second().to_string(), &signature), now).unwrap()
}
