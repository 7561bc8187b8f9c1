//! Checks of both tokens at Webex (`GET /v1/people/me`, which returns the token's owner) and of the clock.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use url::Url;

use super::{CheckGroup, Finding};
use crate::{
    config::Loaded,
    contract::{decode, trace::TraceContext},
    endpoint::url::{is_local, is_loopback},
    random::Random,
    stages,
    telemetry::metrics::Metrics,
    upstream::{ErrorCause, TokenSource, Upstream, UpstreamError, UpstreamLimits},
};

/// Time limit for one response of Webex.
const ANSWER: Duration = Duration::from_secs(10);
/// Tolerated difference between the clocks.
const SKEW: SignedDuration = SignedDuration::from_secs(30);
/// Domains that may receive a Webex token, over TLS.
const WEBEX_DOMAINS: [&str; 3] = ["webexapis.com", "webex.com", "wbx2.com"];

const MESSAGES: &str = "token of Webex Messages at Webex";
const INSTANT_CONNECT: &str = "token of Instant Connect at Webex";

/// The fields that are read from the response.
#[derive(Deserialize)]
struct Person {
    /// Required: a response without an id is not a person.
    id: String,
    #[serde(default, rename = "type")]
    kind: String,
}

/// An accepted token.
#[derive(Clone)]
struct Accepted {
    is_bot: bool,
    /// Lead of our clock over Webex's.
    ahead: Option<SignedDuration>,
}

type TokenResult = Result<Accepted, UpstreamError>;

pub(super) async fn run(loaded: &Loaded) -> Vec<Finding> {
    let hosts = async {
        let token = loaded.hosts_token().ok().filter(|_| loaded.delivers_to_hosts())?;
        Some(match without_tls(loaded) {
            None => Ok(person(loaded, token).await),
            Some(reason) => Err(reason),
        })
    };
    let instant_connect = async {
        let token = loaded.instant_connect_token().ok()?;
        Some(match without_tls(loaded).or_else(|| foreign_host(loaded)) {
            None => Ok(person(loaded, token).await),
            Some(reason) => Err(reason),
        })
    };
    // A shared token is tested once.
    let (hosts, instant_connect) = if loaded.delivers_to_hosts() && shared(loaded) {
        let hosts = hosts.await;
        (hosts.clone(), hosts)
    } else {
        tokio::join!(hosts, instant_connect)
    };
    let mut found = Vec::new();
    found.extend(hosts.as_ref().map(|result| token_finding(CheckGroup::Webex, MESSAGES, result)));
    found.extend(
        instant_connect
            .as_ref()
            .map(|result| token_finding(CheckGroup::InstantConnect, INSTANT_CONNECT, result)),
    );
    let mut answers = [hosts, instant_connect].into_iter().flatten().flatten().flatten();
    found.extend(answers.find_map(|accepted| accepted.ahead).map(clock_finding));
    found
}

/// True if Webex messages are sent with Instant Connect's token.
fn shared(loaded: &Loaded) -> bool {
    use secrecy::ExposeSecret;
    let hosts = &loaded.config.hosts;
    hosts.token.expose_secret().is_empty() && hosts.token_file.is_none()
}

/// The reason not to send any token to `hosts.webex_url`, if there is one.
fn without_tls(loaded: &Loaded) -> Option<&'static str> {
    let url = loaded.people_me_url();
    (url.scheme() != "https" && !is_local(&url)).then_some("hosts.webex_url has no TLS")
}

/// The reason not to send Instant Connect's token to `hosts.webex_url`: the host may belong to a third party.
fn foreign_host(loaded: &Loaded) -> Option<&'static str> {
    let (url, own) = (loaded.people_me_url(), loaded.joseencrypt_url());
    let fine = is_webex(&url) || url.origin() == own.origin() || (is_loopback(&url) && is_loopback(&own));
    (!fine).then_some("hosts.webex_url is neither at Webex nor on the host of instant_connect.url")
}

fn is_webex(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let below =
        |domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    url.scheme() == "https" && WEBEX_DOMAINS.into_iter().any(below)
}

async fn person(loaded: &Loaded, token: TokenSource) -> TokenResult {
    let url = loaded.people_me_url();
    let section = &loaded.config.hosts;
    let limits = UpstreamLimits {
        connect_timeout: section.connect_timeout.get(),
        timeout: section.timeout.get().min(ANSWER),
        body_bytes_max: section.body_bytes_max.size(),
        rate_limit_wait: Duration::from_secs(1),
    };
    let metrics = Metrics::off().upstream(stages::HOST.upstream);
    let network = loaded.network().map_err(|error| unable(&error))?;
    let upstream = Upstream::new("Webex", &url, token, limits, &network, metrics);
    let upstream = upstream.map_err(|error| unable(&error))?;
    let clock = upstream.clock().clone();
    let answer = upstream.get(url, &TraceContext::begin(&Random::system())).await?;
    let person = decode::from_json::<Person>(&answer.body).ok().filter(|person| !person.id.is_empty());
    let person = person.ok_or_else(|| UpstreamError::malformed("Webex", "not a person in JSON"))?;
    let ahead = answer.date.map(|date: Timestamp| clock.now().duration_since(date));
    Ok(Accepted { is_bot: person.kind == "bot", ahead })
}

fn unable(error: &dyn std::fmt::Display) -> UpstreamError {
    let reason = format!("cannot set up the HTTP client: {error}");
    UpstreamError {
        cause: ErrorCause::Transient,
        status: None,
        unknown: false,
        reason,
        retry_after: None,
        code: None,
    }
}

fn token_finding(group: CheckGroup, what: &str, result: &Result<TokenResult, &str>) -> Finding {
    match result {
        Ok(Ok(Accepted { is_bot: true, .. })) => group.pass(what, "accepted; it is a bot token"),
        Ok(Ok(_)) => group.warn(
            what,
            "accepted, but this is a personal access token: it expires within hours or days and posts as that person",
            "use a bot token (developer.webex.com)",
        ),
        Ok(Err(error)) => group.fail(what, error.reason.clone()).advise(advice(error)),
        Err(reason) => group.warn(
            what,
            format!("not tested: {reason}"),
            "test it by hand: GET https://webexapis.com/v1/people/me with this token must return 200",
        ),
    }
}

fn advice(error: &UpstreamError) -> &'static str {
    match (error.cause, error.status) {
        (ErrorCause::Token, _) => "put a valid bot token into the file; the worker reads it again",
        (ErrorCause::Transient | ErrorCause::RateLimited, Some(_)) => "try again; check status.webex.com",
        (ErrorCause::Transient, None) => {
            "check hosts.webex_url, the network, the proxy (HTTPS_PROXY, NO_PROXY), and tls.ca_file for a private CA"
        }
        _ => "check hosts.webex_url: it must point to Webex's API",
    }
}

fn clock_finding(ahead: SignedDuration) -> Finding {
    let what = "clock";
    if ahead.abs() <= SKEW {
        return CheckGroup::Webex.pass(what, "agrees with Webex's clock");
    }
    let side = if ahead.is_negative() { "behind" } else { "ahead of" };
    let detail = format!(
        "{} s {side} Webex's clock: links would open and expire at the wrong time",
        ahead.abs().as_secs()
    );
    CheckGroup::Webex.warn(what, detail, "synchronize this machine's clock (NTP)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::CheckVerdict;
    use crate::config::{Sources, load};

    fn refusal(instant_connect: &str, webex: &str) -> Option<&'static str> {
        let flags = [
            format!("instant_connect.url={instant_connect}"),
            format!("hosts.webex_url={webex}"),
            "hosts.allow_insecure=true".to_owned(),
        ];
        let loaded = load(&Sources { flags: flags.into(), ..Sources::default() }).unwrap();
        without_tls(&loaded).or_else(|| foreign_host(&loaded))
    }

    #[test]
    fn instant_connect_token_goes_only_to_webex_own_host_or_loopback() {
        let own = "https://mtg-broker-a.wbx2.com";
        for (instant_connect, webex) in [
            (own, "https://webexapis.com"),
            (own, "https://api-usgov.webex.com/v1"),
            ("https://proxy.example.com/ic", "https://proxy.example.com/webex"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:9090"),
        ] {
            assert_eq!(refusal(instant_connect, webex), None, "{instant_connect} {webex}");
        }
        for (instant_connect, webex, expected) in [
            (own, "https://proxy.example.com", "neither at Webex"),
            (own, "https://webexapis.com.example.com", "neither at Webex"),
            (own, "https://evilwebex.com", "neither at Webex"),
            (own, "http://127.0.0.1:8080", "neither at Webex"),
            ("https://proxy.example.com", "https://proxy.example.com:8443", "neither at Webex"),
            (own, "http://webexapis.com", "has no TLS"),
            (own, "http://proxy.example.com", "has no TLS"),
        ] {
            let reason = refusal(instant_connect, webex);
            assert!(
                reason.is_some_and(|text| text.contains(expected)),
                "{instant_connect} {webex}: {reason:?}"
            );
        }
    }

    #[test]
    fn clock_difference_above_thirty_seconds_is_a_warning() {
        for (seconds, result) in [
            (0, CheckVerdict::Pass),
            (30, CheckVerdict::Pass),
            (-30, CheckVerdict::Pass),
            (31, CheckVerdict::Warn),
            (-31, CheckVerdict::Warn),
        ] {
            assert_eq!(clock_finding(SignedDuration::from_secs(seconds)).result, result, "{seconds} s");
        }
        assert!(clock_finding(SignedDuration::from_secs(-90)).detail.starts_with("90 s behind"));
    }
}
