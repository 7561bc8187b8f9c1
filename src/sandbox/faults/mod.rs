//! Faults on demand: what goes wrong, where, and how often.
//!
//! A rule is looked at for every request to its endpoint, **before** authorisation: an outage doesn't read
//! tokens. The first rule that fires decides. What happens then depends on the fault:
//!
//! - [`Fault::Status`], [`Fault::Page`], [`Fault::Hang`] and [`Fault::CutBeforeEffect`] come before anything is done:
//!   no links are made, no message is posted.
//! - All others come after the work. A response that was refused anyway (401, 400 …) is left as it is, except
//!   for [`Fault::Delay`], which delays every response.
//!
//! The written form, for the command line (the same keys make the JSON of `POST /sandbox/faults`):
//!
//! ```text
//! ENDPOINT:FAULT[,times=N | ,share=0.1[,seed=N]]
//! ENDPOINT  joseencrypt | messages | people | any
//! FAULT     status=429[,retry-after=7]   answers so, with Retry-After as written (the string form has no commas)
//!           delay=2s                     answers as usual, but later (ms, s, m)
//!           hang                         never answers (10 minutes, or until the client goes away)
//!           cut=before | cut=body        closes the connection: nothing done | done, half the answer sent
//!           garbage | empty              200 and no JSON | 200 and no body
//!           page=404                     nothing done; the HTML page of a proxy in between, with this status
//!           huge=64                      200 and a body of so many MiB
//!           wrong-shape=SHAPE            joseencrypt only: fewer-guests | http-base | foreign-base |
//!                                        host-as-guest | missing-short
//! ```
//!
//! Without `times` and `share` a rule stays until it is cleared.

mod apply;
mod written;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(super) use apply::{InBetween, after, before};
pub use written::ParseError;

/// The rules at one time; more are refused over HTTP.
pub(super) const RULES_MAX: usize = 100;

/// Which requests a rule or a count is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Endpoint {
    /// `/api/v2/joseencrypt`
    JoseEncrypt,
    /// `/v1/messages` and all below it, posting and reading
    Messages,
    /// `/v1/people/me`
    People,
    /// All of them.
    Any,
}

impl Endpoint {
    /// The endpoint of a request's path; the sandbox's own pages have none and never fail.
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

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// This status, Cisco-shaped, with `Retry-After` as written (also a malformed one). Nothing is done.
    Status {
        /// 100 to 999; what the client gets is what is written here.
        code: u16,
        /// Seconds, a date, or nonsense.
        #[serde(rename = "retryAfter")]
        retry_after: Option<String>,
    },
    /// An HTML page with this status, without a tracking id: a proxy or a load balancer in between. Nothing is done.
    Page {
        /// 200 to 599.
        code: u16,
    },
    /// The usual answer, so much later.
    Delay(Duration),
    /// No answer, for ten minutes or until the client goes away. Nothing is done.
    Hang,
    /// The connection is closed without a byte of an answer. Nothing is done.
    CutBeforeEffect,
    /// The work is done; half of the answer is sent, then the connection is closed.
    CutBody,
    /// The work is done; the answer is 200 and not JSON.
    Garbage,
    /// The work is done; the answer is 200 and JSON, but not what was asked for.
    WrongShape(WrongShape),
    /// The work is done; the answer is 200 and a body of this size, without a `Content-Length`.
    Huge {
        /// In MiB (1,048,576 bytes).
        mib: u32,
    },
    /// The work is done; the answer is 200 and has no body.
    Empty,
}

/// How a `joseencrypt` answer can be wrong and still be JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WrongShape {
    /// One guest fewer than asked for.
    FewerGuests,
    /// `baseUrl` is `http://instant.webex.com/visit/`.
    HttpBase,
    /// `baseUrl` is `https://instant.example.net/visit/`.
    ForeignBase,
    /// The first guest's `short` is the first host's: the swap that must never reach a guest.
    HostAsGuest,
    /// The first guest has no `short`.
    MissingShort,
}

/// How often a rule fires.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum How {
    /// So many times, then the rule is gone.
    Times(u32),
    /// With this probability, drawn from a generator that starts with `seed`.
    Share {
        /// 0 (never) to 1 (always).
        share: f64,
        /// The same seed gives the same sequence.
        seed: u64,
    },
    /// Until it is cleared.
    Always,
}

/// What goes wrong, where, and how often. The module says how it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "written::Written", into = "written::Written")]
pub struct FaultRule {
    /// Which requests it falls on.
    pub endpoint: Endpoint,
    /// What happens to them.
    pub fault: Fault,
    /// How often.
    pub times: How,
}

impl FaultRule {
    fn falls_on(&self, endpoint: Endpoint) -> bool {
        let suits = endpoint == Endpoint::JoseEncrypt || !matches!(self.fault, Fault::WrongShape(_));
        suits && self.endpoint.covers(endpoint)
    }
}

/// The rules in force, in the order in which they were added.
#[derive(Default)]
pub(super) struct Faults(Vec<Active>);

struct Active {
    rule: FaultRule,
    random: fastrand::Rng,
    fired: u64,
}

/// A rule and how often it fired, as `GET /sandbox/faults` shows it.
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
        let seed = if let How::Share { seed, .. } = rule.times { seed } else { 0 };
        self.0.push(Active { rule, random: fastrand::Rng::with_seed(seed), fired: 0 });
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn shown(&self) -> Vec<ShownFault> {
        let show = |active: &Active| ShownFault {
            rule: active.rule.clone(),
            text: active.rule.to_string(),
            fired: active.fired,
        };
        self.0.iter().map(show).collect()
    }

    /// The fault of this request, if one falls on it. A rule that is used up is gone afterwards.
    pub(super) fn pick(&mut self, endpoint: Endpoint) -> Option<Fault> {
        let fires = |active: &mut Active| {
            active.rule.falls_on(endpoint)
                && match active.rule.times {
                    How::Times(times) => active.fired < u64::from(times),
                    How::Share { share, .. } => active.random.f64() < share,
                    How::Always => true,
                }
        };
        let active = self.0.iter_mut().find_map(|active| fires(active).then_some(active))?;
        active.fired += 1;
        let fault = active.rule.fault.clone();
        self.0.retain(
            |active| !matches!(active.rule.times, How::Times(times) if active.fired >= u64::from(times)),
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
    fn a_counted_rule_fires_so_often_and_is_gone() {
        let mut faults = faults(&["messages:status=429,times=2"]);
        let fired = (0..5).filter(|_| faults.pick(Endpoint::Messages).is_some()).count();
        assert_eq!((fired, faults.len()), (2, 0));
    }

    #[test]
    fn a_rule_falls_on_its_own_endpoint_only() {
        let mut faults = faults(&["messages:hang", "any:empty,times=1"]);
        assert_eq!(faults.pick(Endpoint::JoseEncrypt), Some(Fault::Empty));
        assert_eq!(faults.pick(Endpoint::JoseEncrypt), None);
        assert_eq!(faults.pick(Endpoint::Messages), Some(Fault::Hang));
    }

    #[test]
    fn a_wrong_shape_falls_on_joseencrypt_even_if_the_rule_says_any() {
        let mut faults = faults(&["any:wrong-shape=http-base"]);
        assert_eq!(faults.pick(Endpoint::Messages), None);
        assert_eq!(faults.pick(Endpoint::JoseEncrypt), Some(Fault::WrongShape(WrongShape::HttpBase)));
    }

    #[test]
    fn a_share_fires_about_as_often_and_the_same_way_for_the_same_seed() {
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
