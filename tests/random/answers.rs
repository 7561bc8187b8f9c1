//! Responses of Instant Connect, and the Retry-After of both APIs.

use std::time::Duration;

use fastrand::Rng;
use instant_connect_worker::{
    contract::{
        link::{GuestLinkUrl, HostLinkUrl},
        start_session::Vertical,
    },
    instant_connect::{
        links_call::{LINKS_MAX, LinksCall},
        response::{self, LinkRules},
    },
    upstream::parse_retry_after,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    count,
    mangle::{any_string, mangled},
    try_all,
};

const BASE_URL: &str = "https://instant.webex.com/visit/";
/// Part of every link.
const MARK: &str = "ckmNR7I";

pub(super) fn rules() -> LinkRules {
    LinkRules {
        allowed_base_urls: vec![BASE_URL.to_owned()],
        long_url_base: "https://instant.webex.com".to_owned(),
    }
}

/// A correct response to `call`.
pub(super) fn answer(call: &LinksCall, short: bool) -> Value {
    let links = |role: &str, count: usize| -> Value {
        let link = |number: usize| {
            let cipher = format!("eyJ{role}.{MARK}.{number}.x-_.y");
            if short {
                json!({"cipher": cipher, "short": format!("{MARK}{role}{number}")})
            } else {
                json!({"cipher": cipher})
            }
        };
        (0..count).map(link).collect()
    };
    let mut answer = json!({"host": links("h", call.hosts.len()), "guest": links("g", call.guests.len())});
    if short {
        answer["baseUrl"] = BASE_URL.into();
    }
    answer
}

fn is_accepted(random: &mut Rng, rules: &LinkRules) -> bool {
    let hosts = if random.u8(..10) == 0 { random.usize(..=LINKS_MAX) } else { random.usize(..3) };
    let call = LinksCall { hosts: 0..hosts, guests: 0..random.usize(..=(LINKS_MAX - hosts).min(3)) };
    let vertical = if random.bool() { Vertical::Hc } else { Vertical::Gen };
    let short = random.bool();
    let body = mangled(random, answer(&call, short));
    match response::read(&body, &call, vertical, rules) {
        Ok((hosts, guests)) => {
            assert_eq!((hosts.len(), guests.len()), (call.hosts.len(), call.guests.len()));
            let mut links =
                hosts.iter().map(HostLinkUrl::reveal).chain(guests.iter().map(GuestLinkUrl::reveal));
            assert!(links.all(|link| rules.allow(link) && link.bytes().all(|b| b.is_ascii_graphic())));
            true
        }
        Err(problem) => {
            assert!(problem.len() < 1000 && !problem.contains(MARK), "{problem}");
            false
        }
    }
}

#[test]
fn random_responses_are_accepted_or_refused() {
    let rules = rules();
    let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
    try_all("random answers", count("ICW_ANSWERS", 20_000), |random| {
        let wait = parse_retry_after(&any_string(random), now);
        assert!(wait.is_none_or(|wait| wait < Duration::from_secs(10 * 366 * 86_400)));
        is_accepted(random, &rules)
    });
}
