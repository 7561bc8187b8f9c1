//! Fault injection: the kind of fault, its endpoint and its frequency.
//!
//! Rules are checked for every request to their endpoint, **before** authorisation, because an outage does not depend on
//! tokens. The first rule that fires applies. The effect depends on the fault:
//!
//! - [`Fault::Status`], [`Fault::Page`], [`Fault::Hang`] and [`Fault::CutBeforeEffect`] replace the processing: no links
//!   are made, and no message is posted.
//! - [`Fault::Delay`] delays every response.
//! - All other faults change the response after the processing. Error responses (401, 400 …) are not changed.
//!
//! The text form, for the command line (the JSON of `POST /sandbox/faults` has the same keys):
//!
//! ```text
//! ENDPOINT:FAULT[,times=N | ,share=0.1[,seed=N]]
//! ENDPOINT  joseencrypt | messages | people | any
//! FAULT     status=429[,retry-after=7]   this status, with Retry-After as written (no commas in the text form)
//!           delay=2s                     the usual response, but later (ms, s, m)
//!           hang                         no response (for 10 minutes, or until the client disconnects)
//!           cut=before | cut=body        closes the connection: nothing done | done, half the response sent
//!           garbage | empty              200 without JSON | 200 without a body
//!           page=404                     nothing done; the HTML page of a proxy, with this status
//!           huge=64                      200 and a body of this size in MiB
//!           wrong-shape=SHAPE            joseencrypt only: fewer-guests | http-base | foreign-base |
//!                                        host-as-guest | missing-short
//! ```
//!
//! Without `times` and `share`, a rule applies until it is cleared.

mod apply;
mod written;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(super) use apply::{InBetween, after, before};
pub use written::ParseError;

/// Maximum number of active rules; HTTP requests for more are refused.
pub(super) const RULES_MAX: usize = 100;

/// The requests of a rule or a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Endpoint {
    /// `/api/v2/joseencrypt`
    JoseEncrypt,
    /// `/v1/messages` and all paths below it, for posting and reading
    Messages,
    /// `/v1/people/me`
    People,
    /// All endpoints.
    Any,
}

impl Endpoint {
    /// The endpoint of a request path; `None` for the sandbox's own pages, which never fail.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path {
            "/api/v2/joseencrypt" => Some(Self::JoseEncrypt),
            "/v1/messages" => Some(Self::Messages),
            _ if path.starts_with("/v1/messages/") => Some(Self::Messages),
            _ if path.starts_with("/v1/people/") => Some(Self::People),
            _ => None,
        }
    }

    pub(super) fn covers(self, other: Self) -> bool {
        self == Self::Any || self == other
    }
}

/// A kind of fault.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// This status, in Cisco's form, with `Retry-After` as written (even if malformed). Nothing is done.
    Status {
        /// HTTP status; the text form accepts 200 to 599.
        code: u16,
        /// Seconds, a date, or an invalid value.
        #[serde(rename = "retryAfter")]
        retry_after: Option<String>,
    },
    /// An HTML page with this status and without a tracking id, as of a proxy or a load balancer. Nothing is done.
    Page {
        /// 200 to 599.
        code: u16,
    },
    /// The usual response, later by this duration.
    Delay(Duration),
    /// No response for ten minutes, or until the client disconnects. Nothing is done.
    Hang,
    /// The connection is closed without a byte of a response. Nothing is done.
    CutBeforeEffect,
    /// The request is processed; half of the response is sent, then the connection is closed.
    CutBody,
    /// The request is processed; the response is 200 but not JSON.
    Garbage,
    /// The request is processed; the response is 200 and JSON, but does not match the request.
    WrongShape(WrongShape),
    /// The request is processed; the response is 200 with a body of this size, without a `Content-Length`.
    Huge {
        /// In MiB (1,048,576 bytes).
        mib: u32,
    },
    /// The request is processed; the response is 200 without a body.
    Empty,
}

/// A wrong `joseencrypt` response that is valid JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WrongShape {
    /// One guest link fewer than requested.
    FewerGuests,
    /// `baseUrl` is `http://instant.webex.com/visit/`.
    HttpBase,
    /// `baseUrl` is `https://instant.example.net/visit/`.
    ForeignBase,
    /// The first guest has the `short` of the first host, which must never reach a guest.
    HostAsGuest,
    /// The first guest has no `short`.
    MissingShort,
}

/// Frequency of a rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Frequency {
    /// The rule fires this many times and is then removed.
    Times(u32),
    /// The rule fires with this probability, from a random generator with this seed.
    Share {
        /// 0 (never) to 1 (always).
        share: f64,
        /// The same seed gives the same sequence.
        seed: u64,
    },
    /// The rule fires until it is cleared.
    Always,
}

/// A rule: a fault, its endpoint and its frequency. The module documentation describes the text form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "written::RuleFields", into = "written::RuleFields")]
pub struct FaultRule {
    /// The affected requests.
    pub endpoint: Endpoint,
    /// The effect on these requests.
    pub fault: Fault,
    /// The frequency.
    pub times: Frequency,
}

impl FaultRule {
    fn applies_to(&self, endpoint: Endpoint) -> bool {
        let supported = endpoint == Endpoint::JoseEncrypt || !matches!(self.fault, Fault::WrongShape(_));
        supported && self.endpoint.covers(endpoint)
    }
}

/// The active rules, in the order in which they were added.
#[derive(Default)]
pub(super) struct Faults(Vec<ActiveRule>);

struct ActiveRule {
    rule: FaultRule,
    random: fastrand::Rng,
    fired: u64,
}

/// A rule and the number of times it fired, for `GET /sandbox/faults`.
#[derive(Serialize)]
pub(super) struct ShownFault {
    #[serde(flatten)]
    rule: FaultRule,
    #[serde(rename = "rule")]
    text: String,
    fired: u64,
}

impl Faults {
    pub(super) fn add(&mut self, rule: FaultRule) {
        let seed = if let Frequency::Share { seed, .. } = rule.times { seed } else { 0 };
        self.0.push(ActiveRule { rule, random: fastrand::Rng::with_seed(seed), fired: 0 });
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn shown(&self) -> Vec<ShownFault> {
        let show = |active: &ActiveRule| ShownFault {
            rule: active.rule.clone(),
            text: active.rule.to_string(),
            fired: active.fired,
        };
        self.0.iter().map(show).collect()
    }

    /// The fault for this request, if a rule fires. A rule that has fired for the last time is removed.
    pub(super) fn pick(&mut self, endpoint: Endpoint) -> Option<Fault> {
        let fires = |active: &mut ActiveRule| {
            active.rule.applies_to(endpoint)
                && match active.rule.times {
                    Frequency::Times(times) => active.fired < u64::from(times),
                    Frequency::Share { share, .. } => active.random.f64() < share,
                    Frequency::Always => true,
                }
        };
        let active = self.0.iter_mut().find_map(|active| fires(active).then_some(active))?;
        active.fired += 1;
        let fault = active.rule.fault.clone();
        self.0.retain(
            |active| !matches!(active.rule.times, Frequency::Times(times) if active.fired >= u64::from(times)),
        );
        Some(fault)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn faults(rules: &[&str]) -> Faults {
        let mut faults = Faults::default();
        for rule in rules {
            faults.add(rule.parse().unwrap());
        }
        faults
    }

    #[test]
    fn counted_rule_fires_the_given_times_and_is_removed() {
        let mut faults = faults(&["messages:status=429,times=2"]);
        let fired = (0..5).filter(|_| faults.pick(Endpoint::Messages).is_some()).count();
        assert_eq!((fired, faults.len()), (2, 0));
    }

    #[test]
    fn rule_applies_to_its_own_endpoint_only() {
        let mut faults = faults(&["messages:hang", "any:empty,times=1"]);
        assert_eq!(faults.pick(Endpoint::JoseEncrypt), Some(Fault::Empty));
        assert_eq!(faults.pick(Endpoint::JoseEncrypt), None);
        assert_eq!(faults.pick(Endpoint::Messages), Some(Fault::Hang));
    }

    #[test]
    fn wrong_shape_applies_to_joseencrypt_only() {
        let mut faults = faults(&["any:wrong-shape=http-base"]);
        assert_eq!(faults.pick(Endpoint::Messages), None);
        assert_eq!(faults.pick(Endpoint::JoseEncrypt), Some(Fault::WrongShape(WrongShape::HttpBase)));
    }

    #[test]
    fn share_fires_with_its_probability_and_repeats_with_the_seed() {
        let draw = |rule: &str| {
            let mut faults = faults(&[rule]);
            (0..10_000).map(|_| faults.pick(Endpoint::Messages).is_some()).collect::<Vec<_>>()
        };
        let first = draw("messages:garbage,share=0.1,seed=7");
        let fired = first.iter().filter(|fired| **fired).count();
        assert!((800..1200).contains(&fired), "{fired}");
        assert_eq!(first, draw("messages:garbage,share=0.1,seed=7"));
        assert_ne!(first, draw("messages:garbage,share=0.1,seed=8"));
    }
}
