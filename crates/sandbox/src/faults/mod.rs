//! Fault injection: the kind of fault, its endpoint and its frequency.
//!
//! Rules are checked for every request to their endpoint, **before** authorisation, because an outage does not depend on
//! tokens. The first rule that fires applies. The effect depends on the fault:
//!
//! - [`Fault::Status`], [`Fault::Page`], [`Fault::Hang`] and [`Fault::CutBeforeEffect`] replace the processing: no links
//!   are made, and no message is posted.
//! - [`Fault::Delay`] delays every response.
//! - [`Fault::Refuse`] replaces the processing by a refusal of Webex Connect.
//! - [`Fault::Receipt`] changes the receipts of an accepted message; its response is not changed.
//! - All other faults change the response after the processing. Error responses (401, 400 …) are not changed.
//!
//! The text form, for the command line (the JSON of `POST /sandbox/faults` has the same keys):
//!
//! ```text
//! ENDPOINT:FAULT[,times=N | ,share=0.1[,seed=N]]
//! ENDPOINT  joseencrypt | messages | people                one API of Webex
//!           sms | whatsapp | event                         one API of Webex Connect
//!           any                                            each API of the server
//!           receipts                                       the receipts of one accepted message
//! FAULT     status=429[,retry-after=7]   this status, with Retry-After as written (no commas in the text form)
//!           delay=2s                     the usual response, but later (ms, s, m)
//!           hang                         no response (for 10 minutes, or until the client disconnects)
//!           cut=before                   closes the connection: nothing done
//!           cut=after | cut=body         closes the connection: done, and no byte | half of the response sent
//!           garbage | empty              200 without JSON | 200 without a body
//!           page=404                     nothing done; the HTML page of a proxy, with this status
//!           huge=64                      200 and a body of this size in MiB
//!           wrong-shape=SHAPE            joseencrypt only: fewer-guests | http-base | foreign-base |
//!                                        host-as-guest | missing-short
//!                                        Webex Connect only: empty-response | missing-response
//!           refuse=7020[,http=200][,shape=SHAPE][,numeric]
//!                                        Webex Connect only: this code and HTTP status; the code as a number;
//!                                        SHAPE is flat | object | array | nested
//!           receipt=EFFECT               receipts only: drop | duplicate | reorder | bad-signature
//!           fail=7282                    receipts only: the last receipt reports a failure with this code
//! ```
//!
//! `receipts` also supports `delay`. A status of Webex Connect has no body: `sms:status=429,retry-after=7`.
//!
//! Without `times` and `share`, a rule applies until it is cleared.

mod apply;
mod kinds;
mod text;
mod written;

use serde::{Deserialize, Serialize};

pub(super) use apply::{InBetween, after, before, cut};
pub use kinds::{Endpoint, Fault, ReceiptFault, RefusalFault, RefusalShape, WrongShape};
pub use written::ParseError;

/// Maximum number of active rules; HTTP requests for more are refused.
pub(super) const RULES_MAX: usize = 100;

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
        self.endpoint.covers(endpoint) && self.fault.suits(endpoint)
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
    use std::time::Duration;

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
    fn any_covers_no_receipts_and_a_refusal_only_webex_connect() {
        let mut faults = faults(&["any:refuse=7020", "any:delay=1s"]);
        assert_eq!(faults.pick(Endpoint::JoseEncrypt), Some(Fault::Delay(Duration::from_secs(1))));
        assert!(matches!(faults.pick(Endpoint::WhatsApp), Some(Fault::Refuse(_))));
        assert_eq!(faults.pick(Endpoint::Receipts), None);
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
