//! Both tokens at Webex (`GET /v1/people/me`, which tells whose token one is), and the clock.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use url::Url;

use super::Finding;
use crate::{
    clock,
    config::Loaded,
    contract::{decode, trace::TraceContext},
    endpoint::url::{is_local, is_loopback},
    telemetry::metrics::{Metrics, labels::Upstream::WebexMessages},
    upstream::{ErrorCause, TokenSource, Upstream, UpstreamError, UpstreamLimits},
};

/// For one answer of Webex.
const ANSWER: Duration = Duration::from_secs(10);
/// What a clock may be off by.
const SKEW: SignedDuration = SignedDuration::from_secs(30);
/// Where a Webex token may be shown, over TLS.
const WEBEX: [&str; 3] = ["webexapis.com", "webex.com", "wbx2.com"];

const MESSAGES: &str = "token of Webex Messages at Webex";
const INSTANT_CONNECT: &str = "token of Instant Connect at Webex";

/// What is read of the answer.
#[derive(Deserialize)]
struct Person {
    /// Without it, it is no person, whoever answered.
    id: String,
    #[serde(default, rename = "type")]
    kind: String,
}

/// An answer to a token.
#[derive(Clone)]
struct Accepted {
    is_bot: bool,
    /// How far our clock is ahead of Webex's.
    ahead: Option<SignedDuration>,
}

type Tried = Result<Accepted, UpstreamError>;

pub(super) async fn look(loaded: &Loaded) -> Vec<Finding> {
    let hosts = async {
        let token = loaded.hosts_token().ok().filter(|_| loaded.delivers_to_hosts())?;
        Some(match in_clear(loaded) {
            None => Ok(person(loaded, token).await),
            Some(why) => Err(why),
        })
    };
    let instant_connect = async {
        let token = loaded.instant_connect_token().ok()?;
        Some(match in_clear(loaded).or_else(|| elsewhere(loaded)) {
            None => Ok(person(loaded, token).await),
            Some(why) => Err(why),
        })
    };
    // The same token is tried once.
    let (hosts, instant_connect) = if loaded.delivers_to_hosts() && shared(loaded) {
        let hosts = hosts.await;
        (hosts.clone(), hosts)
    } else {
        tokio::join!(hosts, instant_connect)
    };
    let mut found = Vec::new();
    found.extend(hosts.as_ref().map(|tried| token(MESSAGES, tried)));
    found.extend(instant_connect.as_ref().map(|tried| token(INSTANT_CONNECT, tried)));
    let mut answers = [hosts, instant_connect].into_iter().flatten().flatten().flatten();
    found.extend(answers.find_map(|accepted| accepted.ahead).map(clock_is));
    found
}

/// Whether messages are sent with Instant Connect's token.
fn shared(loaded: &Loaded) -> bool {
    use secrecy::ExposeSecret;
    let hosts = &loaded.config.hosts;
    hosts.token.expose_secret().is_empty() && hosts.token_file.is_none()
}

/// Why no token is sent to `hosts.webex_url` by a command.
fn in_clear(loaded: &Loaded) -> Option<&'static str> {
    let url = loaded.people_me_url();
    (url.scheme() != "https" && !is_local(&url)).then_some("hosts.webex_url is without TLS")
}

/// Why Instant Connect's token is not sent to `hosts.webex_url`: it may be somebody else's.
fn elsewhere(loaded: &Loaded) -> Option<&'static str> {
    let (url, own) = (loaded.people_me_url(), loaded.joseencrypt_url());
    let fine = is_webex(&url) || url.origin() == own.origin() || (is_loopback(&url) && is_loopback(&own));
    (!fine).then_some("hosts.webex_url is neither Webex's nor where Instant Connect is")
}

fn is_webex(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let below =
        |domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    url.scheme() == "https" && WEBEX.into_iter().any(below)
}

async fn person(loaded: &Loaded, token: TokenSource) -> Tried {
    let url = loaded.people_me_url();
    let section = &loaded.config.hosts;
    let limits = UpstreamLimits {
        connect_timeout: section.connect_timeout.get(),
        timeout: section.timeout.get().min(ANSWER),
        body_bytes_max: section.body_bytes_max.size(),
        rate_limit_wait: Duration::from_secs(1),
    };
    // Counted, and never shown: this ends at once.
    let metrics = Metrics::new(&[]).map_err(|error| unable(&error))?.upstream(WebexMessages);
    let network = loaded.network().map_err(|error| unable(&error))?;
    let upstream = Upstream::new("Webex", &url, token, limits, &network, metrics);
    let upstream = upstream.map_err(|error| unable(&error))?;
    let answer = upstream.get(url, &TraceContext::of(&BTreeMap::new())).await?;
    let person = decode::from_json::<Person>(&answer.body).ok().filter(|person| !person.id.is_empty());
    let person = person.ok_or_else(|| UpstreamError::malformed("Webex", "not a person, as JSON"))?;
    let ahead = answer.date.map(|date: Timestamp| clock::now().duration_since(date));
    Ok(Accepted { is_bot: person.kind == "bot", ahead })
}

fn unable(error: &dyn std::fmt::Display) -> UpstreamError {
    let reason = format!("no client: {error}");
    UpstreamError { cause: ErrorCause::Passing, status: None, unknown: false, reason, retry_after: None }
}

fn token(what: &str, tried: &Result<Tried, &str>) -> Finding {
    match tried {
        Ok(Ok(Accepted { is_bot: true, .. })) => Finding::pass(what, "accepted; it is a bot's"),
        Ok(Ok(_)) => Finding::warn(
            what,
            "accepted; but it is not a bot's: a person's ends after hours or days, and speaks in that person's name",
            "use the token of a bot (developer.webex.com)",
        ),
        Ok(Err(error)) => Finding::fail(what, error.reason.clone()).advise(advice(error)),
        Err(why) => Finding::warn(
            what,
            format!("not tried: {why}"),
            "try it by hand: GET https://webexapis.com/v1/people/me with it has to answer 200",
        ),
    }
}

fn advice(error: &UpstreamError) -> &'static str {
    match (error.cause, error.status) {
        (ErrorCause::Token, _) => {
            "put a bot's token that is in force into the file; the worker reads it again"
        }
        (ErrorCause::Passing | ErrorCause::RateLimited, Some(_)) => "try again; see status.webex.com",
        (ErrorCause::Passing, None) => {
            "see hosts.webex_url, the network, a proxy (HTTPS_PROXY, NO_PROXY), and tls.ca_file for a private CA"
        }
        _ => "see hosts.webex_url: it has to name Webex's API",
    }
}

fn clock_is(ahead: SignedDuration) -> Finding {
    let what = "clock";
    if ahead.abs() <= SKEW {
        return Finding::pass(what, "agrees with Webex's");
    }
    let side = if ahead.is_negative() { "behind" } else { "ahead of" };
    let detail =
        format!("{} s {side} Webex's: links would open and end at the wrong time", ahead.abs().as_secs());
    Finding::warn(what, detail, "have this machine's clock set (NTP)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::CheckVerdict;
    use crate::config::{Sources, load};

    fn why(instant_connect: &str, webex: &str) -> Option<&'static str> {
        let flags = [
            format!("instant_connect.url={instant_connect}"),
            format!("hosts.webex_url={webex}"),
            "hosts.allow_insecure=true".to_owned(),
        ];
        let loaded = load(&Sources { flags: flags.into(), ..Sources::default() }).unwrap();
        in_clear(&loaded).or_else(|| elsewhere(&loaded))
    }

    #[test]
    fn instant_connect_s_token_goes_to_webex_to_where_it_goes_anyway_and_within_this_machine() {
        let own = "https://mtg-broker-a.wbx2.com";
        for (instant_connect, webex) in [
            (own, "https://webexapis.com"),
            (own, "https://api-usgov.webex.com/v1"),
            ("https://proxy.example.com/ic", "https://proxy.example.com/webex"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:9090"),
        ] {
            assert_eq!(why(instant_connect, webex), None, "{instant_connect} {webex}");
        }
        for (instant_connect, webex, expected) in [
            (own, "https://proxy.example.com", "neither Webex's"),
            (own, "https://webexapis.com.example.com", "neither Webex's"),
            (own, "https://evilwebex.com", "neither Webex's"),
            (own, "http://127.0.0.1:8080", "neither Webex's"),
            ("https://proxy.example.com", "https://proxy.example.com:8443", "neither Webex's"),
            (own, "http://webexapis.com", "without TLS"),
            (own, "http://proxy.example.com", "without TLS"),
        ] {
            let why = why(instant_connect, webex);
            assert!(why.is_some_and(|why| why.contains(expected)), "{instant_connect} {webex}: {why:?}");
        }
    }

    #[test]
    fn a_clock_may_be_off_by_half_a_minute() {
        for (seconds, result) in [
            (0, CheckVerdict::Pass),
            (30, CheckVerdict::Pass),
            (-30, CheckVerdict::Pass),
            (31, CheckVerdict::Warn),
            (-31, CheckVerdict::Warn),
        ] {
            assert_eq!(clock_is(SignedDuration::from_secs(seconds)).result, result, "{seconds} s");
        }
        assert!(clock_is(SignedDuration::from_secs(-90)).detail.starts_with("90 s behind"));
    }
}
