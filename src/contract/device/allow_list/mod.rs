//! The allow list: the devices that may be called.

use std::fmt;

use serde::Deserialize;

use super::{Device, is_host, is_user};

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
mod tests;
