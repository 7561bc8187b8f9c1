//! Room devices and the allow list for calls. A no-knock call to the wrong device opens a camera in somebody's room, so a
//! device that is not on the list is never called.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

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

/// One entry of `devices.allowed`: an address with optional wildcards. In the part before the `@`, `*` matches any characters. A
/// host may begin with `*.`, which matches all hosts below the domain.
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

/// Webex's own domains. Webex gives each organisation hosts in them.
const WEBEX: [&str; 7] = [
    "webex.com",
    "webex.com.cn",
    "webexgov.us",
    "ciscospark.com",
    "ciscovideo.com",
    "ciscovideo.co.uk",
    "wbx2.com",
];

/// Labels of Webex's services and clouds. A host below a Webex domain with only such labels belongs to no single organisation.
const WEBEX_SERVICES: [&str; 19] = [
    "bcld", "call", "calling", "calls", "cn", "eu", "fedramp", "gov", "meet", "meeting", "meetings", "room",
    "rooms", "sip", "us", "usgov", "vc", "video", "www",
];

/// True if many organisations share `host`: a shared Webex host, or an entry of the public suffix list.
fn is_shared(host: &str) -> bool {
    let webex = WEBEX.iter().filter_map(|domain| host.strip_suffix(domain)).any(|below| {
        match below.strip_suffix('.') {
            None => below.is_empty(),
            Some(labels) => labels.split('.').all(|label| WEBEX_SERVICES.contains(&label)),
        }
    });
    webex || psl::suffix(host.as_bytes()).is_some_and(|suffix| suffix.is_known() && suffix == host)
}

/// Error text for an invalid pattern `user@host`, `None` if the pattern is valid.
fn problem(user: &str, host: &str) -> Option<&'static str> {
    let domain = host.strip_prefix("*.");
    let without_wildcard = domain.unwrap_or(host);
    if !is_user(user, true) || !is_host(without_wildcard) {
        return Some(EXPECTED);
    }
    let is_number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    match domain {
        // A numeric last label belongs to an IP address (10.0.0.1): its suffixes are not domains of one organisation.
        Some(domain)
            if !domain.contains('.')
                || domain.rsplit('.').next().is_some_and(is_number)
                || is_shared(domain) =>
        {
            Some(EVERY_HOST)
        }
        None if user.contains('*') && is_shared(host) => Some(EVERY_USER),
        _ => None,
    }
}

const EXPECTED: &str = "expected device addresses such as room-12@example.rooms.webex.com, \
                        or with a wildcard such as *@example.rooms.webex.com";
const EVERY_HOST: &str = "expected no wildcard for the hosts below a domain that many organisations share (a public suffix \
                          such as co.uk, or a Webex host such as rooms.webex.com): it would allow the devices of all of \
                          them. Name your own domain, such as *@example.rooms.webex.com or *@*.example.com";
const EVERY_USER: &str = "expected no wildcard before the @ of a host that many organisations share (such as rooms.webex.com): \
                          it would allow the devices of all of them. Name each device there, or your own host, such as \
                          *@example.rooms.webex.com";

/// True if `text` matches `pattern`, in which `*` matches any bytes. The time is at most the product of the lengths.
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
        let (user, host) = address.split_once('@').ok_or(EXPECTED)?;
        match problem(user, host) {
            Some(problem) => Err(problem),
            None => Ok(Self { user: user.to_owned(), host: host.to_owned() }),
        }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[private]")
    }
}

/// The devices that may be called. An empty list allows none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct AllowList(Vec<Pattern>);

impl AllowList {
    /// True if no device is allowed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if `device` is on the list.
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

    #[test]
    fn default_allow_list_allows_no_device() {
        assert!(!AllowList::default().allows(&device("room-12@example.rooms.webex.com")));
    }

    #[test]
    fn exact_entry_allows_only_that_device() {
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
    fn wildcard_matches_within_user_or_subdomains_only() {
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
    fn entry_that_matches_any_organisation_is_refused() {
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

    #[test]
    fn wildcard_on_shared_host_is_refused_with_reason() {
        for (wrong, reason) in [
            ("*@*.co.uk", EVERY_HOST),
            ("room-1@*.com.au", EVERY_HOST),
            ("*@*.foo.ck", EVERY_HOST),
            ("*@*.github.io", EVERY_HOST),
            ("*@*.xn--55qx5d.cn", EVERY_HOST),
            ("*@*.0.0.1", EVERY_HOST),
            ("*@*.Calls.Webex.com", EVERY_HOST),
            ("*@*.vc.webex.com", EVERY_HOST),
            ("*@*.webex.com.cn", EVERY_HOST),
            ("*@*.rooms.ciscospark.com", EVERY_HOST),
            ("*@*.room.wbx2.com", EVERY_HOST),
            ("*@*.ciscovideo.com", EVERY_HOST),
            ("*@*.rooms.gov.ciscospark.com", EVERY_HOST),
            ("*@*.webexgov.us", EVERY_HOST),
            ("*@webex.com", EVERY_USER),
            ("ward-*@rooms.webex.com", EVERY_USER),
            ("sip:*@room.ciscospark.com", EVERY_USER),
            ("*@co.uk", EVERY_USER),
        ] {
            assert_eq!(Pattern::try_from(wrong.to_owned()), Err(reason), "{wrong}");
        }
    }

    #[test]
    fn wildcard_within_one_organisation_is_accepted() {
        for valid in [
            "*@example.rooms.webex.com",
            "*@*.example.rooms.webex.com",
            "*@example.webex.com",
            "*@*.example.calls.webex.com",
            "*@*.example.com",
            "*@*.clinic.co.uk",
            "*@www.ck",
            "*@notwebex.com",
            "*@*.notwebex.com",
            "*@pbx",
            "*@10.0.0.1",
            "room-12@rooms.webex.com",
        ] {
            assert!(Pattern::try_from(valid.to_owned()).is_ok(), "{valid}");
        }
    }

    proptest! {
        #[test]
        fn glob_agrees_with_the_recursive_definition(pattern in "[ab*]{0,6}", text in "[ab]{0,8}") {
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
