//! Hash of an event's content.

use sha2::{Digest as _, Sha256};

use super::StartSession;
use crate::contract::people::Expert;

/// SHA-256 of an event's content.
pub type Digest = [u8; 32];

/// Hashes the content of an event, independent of its notation. A repeat may differ in white space, order of keys, escapes,
/// `null` for an absent field, and as a CloudEvent in `time` and extensions. Configured defaults are not part of the content.
/// `start` must have no duplicate people or devices.
pub(super) fn digest(start: &StartSession) -> Digest {
    let content = StartSession {
        experts: start.experts.iter().map(Expert::with_lowercase_email).collect(),
        devices: start.devices.clone().filter(|devices| !devices.is_empty()),
        attributes: start.attributes.clone().filter(|attributes| !attributes.is_empty()),
        ..start.clone()
    };
    // Serialization cannot fail, because the content is text only.
    Sha256::digest(serde_json::to_vec(&content).unwrap_or_default()).into()
}
