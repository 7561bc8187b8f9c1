//! The headers with the signature of a request.

use axum::http::{HeaderMap, HeaderName};
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use subtle::{Choice, ConstantTimeEq};

use super::SigningSecret;
use crate::{contract::private::Private, ingress::head, telemetry::metrics::labels::AuthFailure};

/// The header whose presence makes a request a signed one.
pub(in crate::ingress) const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// Version of the signatures that are checked: HMAC-SHA-256.
const VERSION: &str = "v1,";
/// Maximum number of seconds between `webhook-timestamp` and now.
const TOLERANCE_SECONDS: u64 = 300;
/// Maximum number of digits of `webhook-timestamp`.
const DIGITS_MAX: usize = 12;

/// The signature of a request, not checked yet.
#[derive(Debug)]
pub(in crate::ingress) struct GivenSignature {
    /// `webhook-id`. It names the request, because the signature covers it.
    pub(in crate::ingress) id: Private<String>,
    /// Signed text in front of the body.
    prefix: Private<String>,
    /// Several during a rotation of the client's secret.
    signatures: Vec<[u8; 32]>,
}

impl GivenSignature {
    /// Reads the headers.
    ///
    /// # Errors
    /// A header is missing, repeated or malformed; its time is not near `now`; or no signature has the right version and length.
    pub(in crate::ingress) fn read(headers: &HeaderMap, now: Timestamp) -> Result<Self, AuthFailure> {
        let text = |name| {
            // Two values are as wrong as none: another program may have checked the other one.
            let value = head::single(headers, name).ok().flatten();
            value.and_then(|value| value.to_str().ok()).ok_or(AuthFailure::Malformed)
        };
        let (id, timestamp, signatures) = (text(ID)?, text(TIMESTAMP)?, text(SIGNATURE)?);
        let prefix = prefix(id, timestamp).ok_or(AuthFailure::Malformed)?;
        let seconds = seconds(timestamp).ok_or(AuthFailure::Malformed)?;
        if now.as_second().abs_diff(seconds) > TOLERANCE_SECONDS {
            return Err(AuthFailure::Timestamp);
        }
        let signatures: Vec<_> = signatures.split(' ').filter_map(signature).collect();
        if signatures.is_empty() {
            return Err(AuthFailure::Signature);
        }
        Ok(Self { id: Private::new(id.to_owned()), prefix: Private::new(prefix), signatures })
    }

    /// Compares each signature with the right one.
    pub(super) fn is_by(&self, secret: &SigningSecret, body: &[u8]) -> Choice {
        let Some(expected) = secret.sign([self.prefix.reveal().as_bytes(), body]) else {
            return Choice::from(0);
        };
        self.signatures.iter().fold(Choice::from(0), |found, given| found | expected.ct_eq(given))
    }
}

/// Signed text in front of the body. `None` if `id` cannot name a request: a full stop separates what is signed, so an id with one could
/// also be read as an id and a time.
pub(super) fn prefix(id: &str, timestamp: &str) -> Option<String> {
    (head::is_key(id) && !id.contains('.')).then(|| format!("{id}.{timestamp}."))
}

/// A signature as text, with its version.
pub(super) fn versioned(signature: &[u8; 32]) -> String {
    format!("{VERSION}{}", STANDARD.encode(signature))
}

fn seconds(text: &str) -> Option<i64> {
    let is_number = (1..=DIGITS_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// The bytes of a signature. Other versions are ignored.
fn signature(text: &str) -> Option<[u8; 32]> {
    STANDARD.decode(text.strip_prefix(VERSION)?).ok()?.try_into().ok()
}
