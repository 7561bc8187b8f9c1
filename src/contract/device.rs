//! Room devices, and which of them may be called. A no-knock call to a wrong device opens a camera in somebody's
//! room, so an address is either on the list or never leaves this program.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::private::Private;

/// The address of a room device, `user@host`, in lower case, without `sip:`.
///
/// Narrower than RFC 3261 on purpose: no port, no parameters, no escapes, nothing that two programs could read
/// differently.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Device(Private<String>);

impl Device {
    /// The address, for the `uri` of a device flow.
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

/// One entry of `devices.allowed`: an address, where `*` in the part before the `@` stands for any run of
/// characters, and a host may begin with `*.` for all hosts below it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern {
    user: String,
    host: String,
}

impl Pattern {
    fn allows(&self, device: &Device) -> bool {
        let Some((user, host)) = device.reveal().split_once('@') else { return false };
        let host_matches = match self.host.strip_prefix('*') {
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => host == self.host,
        };
        host_matches && glob(self.user.as_bytes(), user.as_bytes())
    }
}

/// A host, or `*.` and a domain that is one organisation's: `*` alone, `*.com` and Webex's own domains would be every device of
/// every organisation.
fn is_host_pattern(host: &str) -> bool {
    match host.strip_prefix("*.") {
        None => is_host(host),
        Some(domain) => {
            let shared = ["webex.com", "ciscospark.com", "wbx2.com"];
            let everybody = shared.iter().any(|shared| {
                domain == *shared || domain == format!("rooms.{shared}") || domain == format!("room.{shared}")
            });
            is_host(domain) && domain.contains('.') && !everybody
        }
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any run of bytes. Linear in the product of the lengths.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((star_p, star_t)) = star {
            star = Some((star_p, star_t + 1));
            (p, t) = (star_p + 1, star_t + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&b| b == b'*')
}

impl TryFrom<String> for Pattern {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let lower = text.to_ascii_lowercase();
        let address = lower.strip_prefix("sip:").unwrap_or(&lower);
        match address.split_once('@') {
            Some((user, host)) if is_user(user, true) && is_host_pattern(host) => {
                Ok(Self { user: user.to_owned(), host: host.to_owned() })
            }
            _ => Err("expected device addresses such as room-12@example.rooms.webex.com, \
                      or with a wildcard such as *@example.rooms.webex.com"),
        }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[private]")
    }
}

/// The devices that may be called. Empty allows none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct AllowList(Vec<Pattern>);

impl AllowList {
    /// Whether nothing is allowed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `device` is on the list.
    #[must_use]
    pub fn allows(&self, device: &Device) -> bool {
        self.0.iter().any(|pattern| pattern.allows(device))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn device(text: &str) -> Device {
        Device::try_from(text.to_owned()).unwrap()
    }

    fn list(patterns: &[&str]) -> AllowList {
        AllowList(patterns.iter().map(|p| Pattern::try_from((*p).to_owned()).unwrap()).collect())
    }

    #[test]
    fn an_address_is_normalised() {
        assert_eq!(device("SIP:Room-12@Example.Rooms.Webex.com").reveal(), "room-12@example.rooms.webex.com");
    }

    #[test]
    fn what_could_be_read_two_ways_is_no_address() {
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

    #[test]
    fn nothing_is_allowed_by_default() {
        assert!(!AllowList::default().allows(&device("room-12@example.rooms.webex.com")));
    }

    #[test]
    fn an_exact_entry_allows_that_device_only() {
        let allowed = list(&["room-12@example.rooms.webex.com"]);
        assert!(allowed.allows(&device("sip:ROOM-12@example.rooms.webex.com")));
        for other in [
            "room-1@example.rooms.webex.com",
            "room-122@example.rooms.webex.com",
            "room-12@example.rooms.webex.com.evil.example",
            "room-12@xexample.rooms.webex.com",
            "a.room-12@example.rooms.webex.com",
        ] {
            assert!(!allowed.allows(&device(other)), "{other}");
        }
    }

    #[test]
    fn a_wildcard_stays_within_its_part() {
        let allowed = list(&["ward-*@example.rooms.webex.com", "lab*2@*.clinic.example"]);
        for yes in [
            "ward-7@example.rooms.webex.com",
            "ward-@example.rooms.webex.com",
            "lab-22@a.clinic.example",
            "lab2@a.b.clinic.example",
        ] {
            assert!(allowed.allows(&device(yes)), "{yes}");
        }
        for no in [
            "ward@example.rooms.webex.com",
            "ward-7@other.example",
            "lab-2@clinic.example",
            "lab-2@evilclinic.example",
            "lab-3@a.clinic.example",
        ] {
            assert!(!allowed.allows(&device(no)), "{no}");
        }
    }

    #[test]
    fn an_entry_that_would_allow_everybody_is_refused() {
        for wrong in [
            "*",
            "*@*",
            "room@*",
            "room@*.",
            "room@rooms.*",
            "room@a*.example",
            "",
            "@x",
            "*@*.com",
            "*@*.rooms.webex.com",
            "*@*.webex.com",
        ] {
            assert!(Pattern::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn globbing_agrees_with_the_plain_definition(pattern in "[ab*]{0,6}", text in "[ab]{0,8}") {
            fn plain(p: &[u8], t: &[u8]) -> bool {
                match p.first() {
                    None => t.is_empty(),
                    Some(b'*') => (0..=t.len()).any(|i| plain(&p[1..], &t[i..])),
                    Some(c) => t.first() == Some(c) && plain(&p[1..], &t[1..]),
                }
            }
            prop_assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), plain(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
