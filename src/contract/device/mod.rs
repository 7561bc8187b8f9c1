//! Room devices and the allow list for calls. A no-knock call to the wrong device opens a camera in somebody's room, so a
//! device that is not on the list is never called.

mod allow_list;

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

pub use self::allow_list::{AllowList, Pattern};
use super::private::Private;

/// The address of a room device, `user@host`, in lower case, without `sip:`.
///
/// Deliberately narrower than RFC 3261: without ports, parameters and escapes, which two programs could read differently.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Device(Private<String>);

impl Device {
    /// The address, for the field `uri` of a request.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }
}

impl TryFrom<String> for Device {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let lower = text.to_ascii_lowercase();
        let address = lower.strip_prefix("sip:").unwrap_or(&lower);
        let valid = address.len() <= 254
            && address.split_once('@').is_some_and(|(user, host)| is_user(user, false) && is_host(host));
        if valid {
            Ok(Self(Private::new(address.to_owned())))
        } else {
            Err("expected a device address such as room-12@example.rooms.webex.com")
        }
    }
}

fn is_user(user: &str, wildcard: bool) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.+".contains(&b) || (wildcard && b == b'*');
    !user.is_empty() && user.bytes().all(allowed)
}

fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label)
}

impl JsonSchema for Device {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Device".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^([Ss][Ii][Pp]:)?[A-Za-z0-9._+-]+@[A-Za-z0-9.-]+$",
            "description": "user@host; an optional sip: is dropped"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(text: &str) -> Device {
        Device::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn device_address_is_normalised() {
        assert_eq!(device("SIP:Room-12@Example.Rooms.Webex.com").reveal(), "room-12@example.rooms.webex.com");
    }

    #[test]
    fn ambiguous_device_address_is_refused() {
        for wrong in [
            "",
            "room",
            "@host",
            "room@",
            "room@host:5060",
            "room@host;transport=tcp",
            "room@a,b",
            "room@a b",
            "a@b@c",
            "sips:room@host",
            "room@-a",
            "room@a..b",
            "room@a/?x",
            "r%40x@host",
            "sip:sip:room@host",
            "rööm@host",
            "<sip:room@host>",
            "*@host",
        ] {
            assert!(Device::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
