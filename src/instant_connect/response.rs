//! The answer of `joseencrypt`, checked before it is believed.

use std::collections::HashSet;

use serde::Deserialize;

use super::request::LinksCall;
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

/// What links may look like.
#[derive(Clone, Debug)]
pub struct LinkRules {
    /// `instant_connect.allowed_base_urls`.
    pub allowed_base_urls: Vec<String>,
    /// `instant_connect.long_url_base`, without a slash at its end.
    pub long_url_base: String,
}

impl LinkRules {
    /// Whether `url` is a link that could have come from Instant Connect.
    #[must_use]
    pub fn allow(&self, url: &str) -> bool {
        let short = self.allowed_base_urls.iter().any(|base| url.starts_with(base.as_str()));
        short || url.strip_prefix(&self.long_url_base).is_some_and(|rest| rest.starts_with('/'))
    }
}

/// Reads the links that `call` asked for from `body`.
///
/// # Errors
/// What is wrong with the answer; shows nothing of it.
pub fn read(
    body: &[u8],
    call: &LinksCall,
    vertical: Vertical,
    rules: &LinkRules,
) -> Result<(Vec<HostLinkUrl>, Vec<GuestLinkUrl>), String> {
    let response: Response = decode::from_json(body).map_err(|invalid| invalid.to_string())?;
    for (name, items, asked) in
        [("host", &response.host, call.hosts.len()), ("guest", &response.guest, call.guests.len())]
    {
        if items.len() != asked {
            return Err(format!("{} {name} links, and {asked} were asked for", items.len()));
        }
    }
    let base = response.base_url.as_deref();
    let hosts =
        response.host.iter().map(|item| address(item, base, "login", vertical, rules).map(HostLinkUrl));
    let guests =
        response.guest.iter().map(|item| address(item, base, "talk", vertical, rules).map(GuestLinkUrl));
    Ok((hosts.collect::<Result<_, _>>()?, guests.collect::<Result<_, _>>()?))
}

fn address(
    item: &Item,
    base: Option<&str>,
    page: &str,
    vertical: Vertical,
    rules: &LinkRules,
) -> Result<MeetingLink, String> {
    match (base, &item.short, &item.cipher) {
        (Some(base), Some(short), _) => short_address(base, short.reveal(), rules),
        (None, None, Some(cipher)) => long_address(cipher.reveal(), page, vertical, rules),
        (Some(_), None, _) => Err("a baseUrl, and a link without short".to_owned()),
        (None, Some(_), _) => Err("a short, and no baseUrl".to_owned()),
        (None, None, None) => Err("a link with neither short nor cipher".to_owned()),
    }
}

/// Guide: "append the `short` key values to the `baseUrl`".
fn short_address(base: &str, short: &str, rules: &LinkRules) -> Result<MeetingLink, String> {
    if !rules.allowed_base_urls.iter().any(|allowed| allowed == base) {
        return Err("a baseUrl that instant_connect.allowed_base_urls does not list".to_owned());
    }
    if short.is_empty() || short.len() > 64 || !ids::is_plain(short) {
        return Err("a short that is not 1 to 64 letters, digits, - and _".to_owned());
    }
    Ok(MeetingLink {
        url: format!("{base}{short}").into(),
        base_url: Some(base.to_owned()),
        short: Some(short.to_owned().into()),
    })
}

/// Guide: "Append your API response `cipher` values as the `&data=` parameter value".
fn long_address(
    cipher: &str,
    page: &str,
    vertical: Vertical,
    rules: &LinkRules,
) -> Result<MeetingLink, String> {
    // RFC 7516, section 7.1: five parts of base64url, of which the authentication tag at least is never empty.
    let compact = cipher.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && cipher.split('.').count() == 5;
    if !compact {
        return Err("a cipher that is no compact JWE".to_owned());
    }
    let url = format!("{}/{}/v1/{page}?int=jose&v=1&data={cipher}", rules.long_url_base, vertical.as_str());
    Ok(MeetingLink { url: url.into(), base_url: None, short: None })
}

/// Whether no link stands twice among `hosts` and `guests`: a guest with a host's link would be the host. Of a long link that is its
/// cipher, whichever page it leads to.
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
    fn the_recorded_answers_are_read() {
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
    fn what_was_not_asked_for_is_not_believed() {
        let base = r#""baseUrl":"https://instant.webex.com/visit/""#;
        for (body, problem) in [
            ("", "invalid JSON"),
            ("null", "expected an object"),
            ("[]", "expected an object"),
            (r#"{"host":[],"guest":[]}"#, "0 host links, and 1 were asked for"),
            (
                &format!(r#"{{"host":[{{"short":"a"}}],"guest":[{{"short":"b"}},{{"short":"c"}}],{base}}}"#),
                "2 guest links, and 1 were",
            ),
            (&format!(r#"{{"host":[{{"short":"a"}}],"guest":[{{}}],{base}}}"#), "a link without short"),
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
            (r#"{"host":[{"cipher":"a&x=y.b.c.d.e"}],"guest":[{"cipher":"a.b.c.d.e"}]}"#, "no compact JWE"),
            (r#"{"host":[{"short":5}],"guest":[{}]}"#, "`host[0].short`: expected a string"),
        ] {
            let error = read_one(body, Vertical::Hc).unwrap_err();
            assert!(error.contains(problem), "{body}: {error}");
        }
    }

    #[test]
    fn a_guest_never_gets_a_hosts_link() {
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
        assert_eq!((long("a.b.c.d.e"), long("a.b.c.d.f")), (false, true), "the page is another one");
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(body: Vec<u8>, hosts in 0usize..3, guests in 0usize..3) {
            if let Ok((h, g)) = read(&body, &LinksCall { hosts: 0..hosts, guests: 0..guests }, Vertical::Hc, &rules()) {
                prop_assert_eq!((h.len(), g.len()), (hosts, guests));
            }
        }
    }
}
