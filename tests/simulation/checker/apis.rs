//! The APIs as one life of the worker knows them: rate limits, failures, and the reasons to open a breaker.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use instant_connect_worker::contract::stage::StageDef;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::{Checker, RATE_LIMIT_WAIT};
use crate::{network::CallResult, per_stage::api_name};

/// After this time, failures of fewer events may open the breaker.
const FEW_AFTER: SignedDuration = SignedDuration::from_secs(120);
/// Time after which the worker has used the result of a call.
const UNOBSERVED_MAX: SignedDuration = SignedDuration::from_secs(40);
/// Time after which a Retry-After is in the ledger.
const KEPT_AFTER: SignedDuration = SignedDuration::from_secs(10);
/// A wait that is longer by this much is not written again.
const KEPT_TO: SignedDuration = SignedDuration::from_millis(500);

/// The observations of one API.
#[derive(Debug, Default)]
pub(super) struct ApiChecks {
    /// The end of the rate limit, and the time at which the API sent it.
    limited_until: Option<Timestamp>,
    limited_at: Option<Timestamp>,
    /// The same, including rate limits that a stopped worker may not have recorded.
    ever_limited_until: Option<Timestamp>,
    /// The time at which the current worker last received a rate limit.
    limit_learnt_at: Option<Timestamp>,
    /// Calls by the current worker since the total outage began.
    outage_calls: usize,
    learnt: ApiState,
}

/// The state of an API as one life of the worker knows it.
#[derive(Debug, Default)]
struct ApiState {
    /// Failed calls and their subjects, since shortly before the last success.
    failed: Vec<(Timestamp, String)>,
    /// Subjects of the failed calls before a success, with its time. The worker may learn of it late.
    forgotten: Vec<(Timestamp, String)>,
    /// The time of a success after failures that lasted long enough for few events to open the breaker. The worker may learn of it
    /// late.
    few: Option<Timestamp>,
    /// The time of another reason to open the breaker, unless a later call succeeded.
    stops: Option<Timestamp>,
    /// The end of the rate limit that the worker is known to have received.
    no_call_until: Option<Timestamp>,
    /// Subjects that were rate limited and not processed since: if others were processed, and the count in a row.
    limited: BTreeMap<String, (bool, u32)>,
}

impl ApiChecks {
    /// The end of the rate limit, if a call `now` would be too early.
    pub(super) fn limited_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.limited_until.filter(|until| now < *until)
    }

    /// True if the current worker has known of the rate limit for some time.
    pub(super) fn is_known_to_be_limited(&self, now: Timestamp) -> bool {
        let is_known = |at| now.duration_since(at) > KEPT_AFTER;
        self.limited_until(now).is_some() && self.limit_learnt_at.is_some_and(is_known)
    }

    /// Records a call. Returns the number of calls since the total outage began.
    pub(super) const fn called(&mut self, is_out: bool) -> usize {
        self.outage_calls = if is_out { self.outage_calls + 1 } else { 0 };
        self.outage_calls
    }

    /// Records a reason to open the breaker.
    pub(super) const fn stops(&mut self, now: Timestamp) {
        self.learnt.stops = Some(now);
    }

    pub(super) fn worker_ended(&mut self, now: Timestamp, ledger_fails: bool) {
        // The worker may not have recorded a rate limit that it received just now.
        let kept = self.limited_at.is_some_and(|at| now.duration_since(at) > KEPT_AFTER);
        self.limited_until =
            self.limited_until.filter(|_| kept && !ledger_fails).map(|until| until - KEPT_TO);
        self.outage_calls = 0;
        self.limit_learnt_at = None;
        self.learnt = ApiState::default();
    }

    /// Records a rate limit. `until` is missing if the response does not name its end; the limit may then apply to one
    /// call only.
    pub(super) fn limited(&mut self, now: Timestamp, until: Option<Timestamp>, this_call_only: bool) {
        let unnamed = || now.checked_add(SignedDuration::try_from(RATE_LIMIT_WAIT).ok()?).ok();
        self.ever_limited_until = self.ever_limited_until.max(until.or_else(unnamed));
        if !this_call_only && self.limited_until < until {
            self.limited_until = until;
            self.limit_learnt_at = Some(now);
            self.limited_at = Some(now);
        }
    }

    /// Records the result of a call. Returns true for a Retry-After that may apply to this call only.
    pub(super) fn learn(&mut self, now: Timestamp, key: &str, looks: bool, learnt: CallResult) -> bool {
        let api = &mut self.learnt;
        match learnt {
            CallResult::Worked | CallResult::Refused => {
                api.succeeded(now);
                // A look is served even if a message to the same person is not.
                if !looks {
                    api.limited.remove(key);
                    api.limited.values_mut().for_each(|(served, _)| *served = true);
                }
            }
            CallResult::Failed | CallResult::Later => api.failed.push((now, key.to_owned())),
            CallResult::Token => api.stops = Some(now),
            CallResult::Wait(_) => {
                api.stops = Some(now);
                if let Some((served, times)) = api.limited.get_mut(key) {
                    *times += u32::from(std::mem::take(served));
                    return *times >= 2;
                }
                api.limited.values_mut().for_each(|(_, times)| *times = 0);
                api.limited.insert(key.to_owned(), (false, 0));
            }
            CallResult::CutOff => {}
        }
        false
    }

    /// Checks that there is a reason to open the breaker. Otherwise returns the number of events that failed.
    fn may_open(&self, now: Timestamp, failures: usize) -> Result<(), usize> {
        let api = &self.learnt;
        // The worker may learn of the wait from the ledger, and use it late.
        let asked = self.ever_limited_until;
        let asked = asked.is_some_and(|until| now.duration_since(until) < UNOBSERVED_MAX);
        let late = api.forgotten.iter().filter(|(at, _)| now.duration_since(*at) < KEPT_AFTER);
        let events: BTreeSet<_> = api.failed.iter().chain(late).map(|(_, key)| key).collect();
        let long = api.failed.first().is_some_and(|(at, _)| now.duration_since(*at) >= FEW_AFTER);
        let few = api.failed.len() >= failures && long
            || api.few.is_some_and(|at| now.duration_since(at) < UNOBSERVED_MAX);
        if api.stops.is_some() || asked || few || events.len() >= failures {
            return Ok(());
        }
        Err(events.len())
    }
}

impl ApiState {
    fn succeeded(&mut self, now: Timestamp) {
        let long = |(at, _): &(Timestamp, String)| now.duration_since(*at) >= FEW_AFTER - UNOBSERVED_MAX;
        self.few = self.few.max(self.failed.first().is_some_and(long).then_some(now));
        let of_before = |(at, _): &mut (Timestamp, String)| now.duration_since(*at) >= UNOBSERVED_MAX;
        let before: Vec<_> = self.failed.extract_if(.., of_before).collect();
        self.forgotten.retain(|(at, _)| now.duration_since(*at) < KEPT_AFTER);
        self.forgotten.extend(before.into_iter().map(|(_, key)| (now, key)));
        self.stops = self.stops.filter(|at| now.duration_since(*at) < UNOBSERVED_MAX);
    }
}

impl Checker {
    /// Records that the worker decided the outcome of a message's only delivery.
    pub(super) fn decided(&mut self, id: &Uuid) {
        let Some(seen) = self.seen.get_mut(id).filter(|seen| seen.open <= 1) else { return };
        seen.unclear = None;
        let api = &mut self.apis[seen.stage].learnt;
        api.no_call_until = api.no_call_until.max(seen.no_call_until.take());
    }

    /// Checks that there was a reason to open the breaker.
    pub(crate) fn breaker_opened(&mut self, stage: &StageDef) -> Result<(), String> {
        self.count("breakers opened");
        let reason = self.apis[stage.name].may_open(self.now(), self.breaker_failures);
        reason.map_err(|events| {
            format!("{}: breaker opened after failures of only {events} events", api_name(stage))
        })
    }

    /// Checks that the breaker does not close during a rate limit.
    pub(crate) fn breaker_closed(&self, stage: &StageDef) -> Result<(), String> {
        let until = self.apis[stage.name].learnt.no_call_until;
        if until.is_some_and(|until| self.now() < until) {
            return Err(format!("{}: breaker closed during a rate limit", api_name(stage)));
        }
        Ok(())
    }

    /// Records the end of a rate limit as a delay that the worker may impose on other events.
    pub(super) fn record_wait(&mut self, until: Timestamp) {
        let wait = Duration::try_from(until.duration_since(self.now())).unwrap_or_default();
        self.longest_wait = self.longest_wait.max(wait);
    }
}
