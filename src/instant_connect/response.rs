//! Parsing and validation of the response of `joseencrypt`.

use std::collections::HashSet;

use serde::Deserialize;

use super::links_call::LinksCall;
use crate::contract::{
    decode, ids,
    link::{GuestLinkUrl, HostLinkUrl, MeetingLink},
    private::Private,
    start_session::Vertical,
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    #[serde(default, deserialize_with = "decode::objects_or_null")]
    host: Vec<Item>,
    #[serde(default, deserialize_with = "decode::objects_or_null")]
    guest: Vec<Item>,
    base_url: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    cipher: Option<Private<String>>,
    short: Option<Private<String>>,
}

/// Rules for valid links.
#[derive(Clone, Debug)]
pub struct LinkRules {
    /// `instant_connect.allowed_base_urls`.
    pub allowed_base_urls: Vec<String>,
    /// `instant_connect.long_url_base`, without a trailing slash.
    pub long_url_base: String,
}

impl LinkRules {
    /// True if `url` has the form of an Instant Connect link.
    #[must_use]
    pub fn allow(&self, url: &str) -> bool {
        let short = self.allowed_base_urls.iter().any(|base| url.starts_with(base.as_str()));
        short || url.strip_prefix(&self.long_url_base).is_some_and(|rest| rest.starts_with('/'))
    }

    /// True if `link` has the form of a guest's link. Short links of hosts and guests look the same.
    #[must_use]
    pub fn allow_guest(&self, link: &GuestLinkUrl) -> bool {
        let MeetingLink { url, base_url, short } = &link.0;
        let url = url.reveal().as_str();
        match (base_url, short) {
            (Some(base), Some(short)) => {
                self.allowed_base_urls.contains(base)
                    && is_short(short.reveal())
                    && url.strip_prefix(base.as_str()) == Some(short.reveal())
            }
            (None, None) => [Vertical::Hc, Vertical::Gen].iter().any(|vertical| {
                let page = long_page(&self.long_url_base, GUEST_PAGE, *vertical);
                url.strip_prefix(&page).is_some_and(is_compact)
            }),
            _ => false,
        }
    }
}

/// Reads the links that `call` requested from `body`.
///
/// # Errors
/// The defect of the response, without any part of it.
pub fn read(
    body: &[u8],
    call: &LinksCall,
    vertical: Vertical,
    rules: &LinkRules,
) -> Result<(Vec<HostLinkUrl>, Vec<GuestLinkUrl>), String> {
    let response: Response = decode::from_json(body).map_err(|invalid| invalid.to_string())?;
    for (name, items, requested) in
        [("host", &response.host, call.hosts.len()), ("guest", &response.guest, call.guests.len())]
    {
        if items.len() != requested {
            return Err(format!("{} {name} links, but {requested} requested", items.len()));
        }
    }
    let base = response.base_url.as_deref();
    let hosts =
        response.host.iter().map(|item| meeting_link(item, base, "login", vertical, rules).map(HostLinkUrl));
    let guests = response.guest.iter();
    let guests = guests.map(|item| meeting_link(item, base, GUEST_PAGE, vertical, rules).map(GuestLinkUrl));
    Ok((hosts.collect::<Result<_, _>>()?, guests.collect::<Result<_, _>>()?))
}

fn meeting_link(
    item: &Item,
    base: Option<&str>,
    page: &str,
    vertical: Vertical,
    rules: &LinkRules,
) -> Result<MeetingLink, String> {
    match (base, &item.short, &item.cipher) {
        (Some(base), Some(short), _) => short_link(base, short.reveal(), rules),
        (None, None, Some(cipher)) => long_link(cipher.reveal(), page, vertical, rules),
        (Some(_), None, _) => Err("baseUrl is present, but a link has no short".to_owned()),
        (None, Some(_), _) => Err("a link has short, but there is no baseUrl".to_owned()),
        (None, None, None) => Err("a link has neither short nor cipher".to_owned()),
    }
}

/// Guide: "append the `short` key values to the `baseUrl`".
fn short_link(base: &str, short: &str, rules: &LinkRules) -> Result<MeetingLink, String> {
    if !rules.allowed_base_urls.iter().any(|allowed| allowed == base) {
        return Err("baseUrl is not in instant_connect.allowed_base_urls".to_owned());
    }
    if !is_short(short) {
        return Err("expected 1 to 64 letters, digits, - and _ in short".to_owned());
    }
    Ok(MeetingLink {
        url: format!("{base}{short}").into(),
        base_url: Some(base.to_owned()),
        short: Some(short.to_owned().into()),
    })
}

/// Guide: "Append your API response `cipher` values as the `&data=` parameter value".
fn long_link(cipher: &str, page: &str, vertical: Vertical, rules: &LinkRules) -> Result<MeetingLink, String> {
    if !is_compact(cipher) {
        return Err("cipher is not a compact JWE".to_owned());
    }
    let url = long_page(&rules.long_url_base, page, vertical) + cipher;
    Ok(MeetingLink { url: url.into(), base_url: None, short: None })
}

/// The page of a guest's long link.
const GUEST_PAGE: &str = "talk";

/// A long link up to its cipher.
fn long_page(base: &str, page: &str, vertical: Vertical) -> String {
    format!("{base}/{}/v1/{page}?int=jose&v=1&data=", vertical.as_str())
}

/// True if `short` can be the end of a short link.
fn is_short(short: &str) -> bool {
    !short.is_empty() && short.len() <= 64 && ids::is_plain(short)
}

/// True if `cipher` has the form of a compact JWE (RFC 7516, section 7.1): five base64url parts.
fn is_compact(cipher: &str) -> bool {
    cipher.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) && cipher.split('.').count() == 5
}

/// True if all links are different, because a guest with a host's link would be the host. Long links are compared by
/// their cipher, without the page.
#[must_use]
pub fn all_different(hosts: &[HostLinkUrl], guests: &[GuestLinkUrl]) -> bool {
    let mut seen = HashSet::new();
    hosts
        .iter()
        .map(HostLinkUrl::reveal)
        .chain(guests.iter().map(GuestLinkUrl::reveal))
        .all(|url| seen.insert(url.split_once("&data=").map_or(url, |(_, cipher)| cipher)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules() -> LinkRules {
        LinkRules {
            allowed_base_urls: vec!["https://instant.webex.com/visit/".to_owned()],
            long_url_base: "https://instant.webex.com".to_owned(),
        }
    }

    fn read_one(body: &str, vertical: Vertical) -> Result<(String, String), String> {
        let (hosts, guests) =
            read(body.as_bytes(), &LinksCall { hosts: 0..1, guests: 0..1 }, vertical, &rules())?;
        Ok((hosts[0].reveal().to_owned(), guests[0].reveal().to_owned()))
    }

    /// The Guide's and the Lab's own samples.
    #[test]
    fn sample_responses_of_the_guide_are_read() {
        let short = r#"{"host":[{"cipher":"eyJwMnMiOiJpNmZta3dp...cWl3ZGw2cjFuSkg0bEUj","short":"oCVp2LD"}],
            "guest":[{"cipher":"eyJwMnMiOiJEQVdaHOBS...RDTvlZ-aLLRdIMSmCwEc","short":"ckmNR7I"}],"baseUrl":"https://instant.webex.com/visit/"}"#;
        let (host, guest) = read_one(short, Vertical::Hc).unwrap();
        assert_eq!(host, "https://instant.webex.com/visit/oCVp2LD");
        assert_eq!(guest, "https://instant.webex.com/visit/ckmNR7I");
        let marked = read_one(&format!("\u{feff}{short}"), Vertical::Hc).unwrap();
        assert_eq!(marked, (host, guest), "after a byte-order mark");
        let long = r#"{"host":[{"cipher":"eyJwMnMiOiJiLVZB.a.b.c.xtzA"}],"guest":[{"cipher":"eyJwMnMiOiJuNmxv.a.b.c.FaqA"}]}"#;
        let (host, guest) = read_one(long, Vertical::Gen).unwrap();
        assert_eq!(
            host,
            "https://instant.webex.com/gen/v1/login?int=jose&v=1&data=eyJwMnMiOiJiLVZB.a.b.c.xtzA"
        );
        assert_eq!(
            guest,
            "https://instant.webex.com/gen/v1/talk?int=jose&v=1&data=eyJwMnMiOiJuNmxv.a.b.c.FaqA"
        );
        assert!(read_one(long, Vertical::Hc).unwrap().1.starts_with("https://instant.webex.com/hc/v1/talk?"));
    }

    #[test]
    fn unexpected_response_is_an_error() {
        let base = r#""baseUrl":"https://instant.webex.com/visit/""#;
        for (body, problem) in [
            ("", "invalid JSON"),
            ("null", "expected an object"),
            ("[]", "expected an object"),
            (r#"{"host":[],"guest":[]}"#, "0 host links, but 1 requested"),
            (
                &format!(r#"{{"host":[{{"short":"a"}}],"guest":[{{"short":"b"}},{{"short":"c"}}],{base}}}"#),
                "2 guest links, but 1 requested",
            ),
            (&format!(r#"{{"host":[{{"short":"a"}}],"guest":[{{}}],{base}}}"#), "a link has no short"),
            (r#"{"host":[{"short":"a"}],"guest":[{"short":"b"}]}"#, "no baseUrl"),
            (r#"{"host":[{}],"guest":[{}]}"#, "neither"),
            (
                r#"{"host":[{"short":"a"}],"guest":[{"short":"b"}],"baseUrl":"http://instant.webex.com/visit/"}"#,
                "allowed_base_urls",
            ),
            (
                r#"{"host":[{"short":"a"}],"guest":[{"short":"b"}],"baseUrl":"https://instant.webex.com.evil.example/visit/"}"#,
                "allowed_base_urls",
            ),
            (
                &format!(r#"{{"host":[{{"short":"../x"}}],"guest":[{{"short":"b"}}],{base}}}"#),
                "1 to 64 letters",
            ),
            (&format!(r#"{{"host":[{{"short":""}}],"guest":[{{"short":"b"}}],{base}}}"#), "1 to 64 letters"),
            (
                r#"{"host":[{"cipher":"a&x=y.b.c.d.e"}],"guest":[{"cipher":"a.b.c.d.e"}]}"#,
                "not a compact JWE",
            ),
            (r#"{"host":[{"short":5}],"guest":[{}]}"#, "`host[0].short`: expected a string"),
        ] {
            let error = read_one(body, Vertical::Hc).unwrap_err();
            assert!(error.contains(problem), "{body}: {error}");
        }
    }

    #[test]
    fn guest_link_equal_to_a_host_link_is_detected() {
        let base = r#""baseUrl":"https://instant.webex.com/visit/""#;
        let body = format!(r#"{{"host":[{{"short":"same"}}],"guest":[{{"short":"same"}}],{base}}}"#);
        let (hosts, guests) =
            read(body.as_bytes(), &LinksCall { hosts: 0..1, guests: 0..1 }, Vertical::Hc, &rules()).unwrap();
        assert!(!all_different(&hosts, &guests));
        let long = |guest: &str| {
            let body = format!(r#"{{"host":[{{"cipher":"a.b.c.d.e"}}],"guest":[{{"cipher":"{guest}"}}]}}"#);
            let call = LinksCall { hosts: 0..1, guests: 0..1 };
            let (hosts, guests) = read(body.as_bytes(), &call, Vertical::Hc, &rules()).unwrap();
            all_different(&hosts, &guests)
        };
        assert_eq!((long("a.b.c.d.e"), long("a.b.c.d.f")), (false, true), "the page does not count");
    }

    proptest! {
        #[test]
        fn any_body_is_read_without_a_panic(body: Vec<u8>, hosts in 0usize..3, guests in 0usize..3) {
            if let Ok((h, g)) = read(&body, &LinksCall { hosts: 0..hosts, guests: 0..guests }, Vertical::Hc, &rules()) {
                prop_assert_eq!((h.len(), g.len()), (hosts, guests));
            }
        }
    }
}
