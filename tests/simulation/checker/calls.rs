//! Calls to the APIs, and their results as the worker receives them.

use instant_connect_worker::{contract::stage::StageDef, stages};
use jiff::Timestamp;

use super::{Checker, message::SeenMessage, too_often};
use crate::{
    network::{CallResult, SimulatedRequest},
    per_stage::api_name,
};

/// Limit per minute for one message; a worker that exceeds it loops.
const CALLS_PER_MINUTE_MAX: usize = 60;

impl Checker {
    /// The message whose processing calls the API of `stage` for `key`.
    pub(super) fn by_key(&mut self, stage: &StageDef, key: &str) -> Option<&mut SeenMessage> {
        self.seen.values_mut().find(|seen| seen.stage == stage.name && seen.key == key)
    }

    /// Checks a call before the API receives it.
    pub(crate) fn called(
        &mut self,
        stage: &StageDef,
        asked: &SimulatedRequest,
        out: bool,
    ) -> Result<(), String> {
        self.count("calls");
        let now = self.now();
        let api = &mut self.apis[stage.name];
        let calls = api.called(out);
        if calls > self.outage_calls_max {
            return Err(format!("{} is down, but received {calls} calls", api_name(stage)));
        }
        if let Some(until) = api.limited_until(now) {
            return Err(format!("early: a call to {}, which is rate limited until {until}", api_name(stage)));
        }
        if matches!(asked, SimulatedRequest::TryKey) {
            return Ok(());
        }
        let seen = self.by_key(stage, asked.key());
        let seen = seen.ok_or_else(|| format!("unexpected: a call for {}", asked.key()))?;
        // Listing the sent messages sends nothing.
        let ends_at = seen.guest.as_ref().map_or(seen.deadline, |guest| Some(guest.ends_at));
        if !asked.is_question() && ends_at.is_some_and(|ends_at| now >= ends_at) {
            return Err(format!("late: a call for {}, whose session has ended", seen.name));
        }
        // If the message may have several copies, the call may belong to another copy.
        let one = seen.inputs == 1 && seen.excuses == 0;
        if one && seen.not_before.is_some_and(|at| now < at) {
            return Err(format!("early: a call for {}, which is not due yet", seen.name));
        }
        if too_often(&mut seen.called_at, now, CALLS_PER_MINUTE_MAX) {
            return Err(format!("too many calls for {}", seen.name));
        }
        let (name, number) = (seen.name.clone(), seen.event);
        match asked {
            SimulatedRequest::Links { devices, until, .. } => {
                self.links_requested(&name, number, devices, *until)
            }
            SimulatedRequest::ToGuest(message) => self.guest_called(message),
            _ => Ok(()),
        }
    }

    /// Checks that a request for links fits the event `name`, which has this `number`.
    fn links_requested(
        &self,
        name: &str,
        number: usize,
        devices: &[String],
        until: i64,
    ) -> Result<(), String> {
        let event = &self.events[number];
        if event.links.is_empty() {
            return Err(format!("unexpected: links for {name}, which must not get any"));
        }
        if !devices.is_empty() && *devices != event.devices {
            return Err(format!("the called devices differ from those of {name}"));
        }
        let said = event.expires_at.map(Timestamp::as_second);
        if until <= self.now().as_second() || said.is_some_and(|said| said != until) {
            return Err(format!("the links of {name} have the wrong expiry time"));
        }
        Ok(())
    }

    /// Records the result of a call as the worker received it.
    pub(crate) fn call_ended(&mut self, stage: &StageDef, asked: &SimulatedRequest, learnt: CallResult) {
        if matches!(asked, SimulatedRequest::TryKey) {
            return self.key_tried(stage, learnt);
        }
        let (now, looks) = (self.now(), asked.is_question());
        let api = &mut self.apis[stage.name];
        let this_call_only = api.learn(now, asked.key(), looks, learnt);
        if let CallResult::Wait(until) = learnt {
            api.limited(now, until, this_call_only);
            if let (Some(until), false) = (until, this_call_only) {
                self.record_wait(until);
            }
        }
        self.count(learnt.counted());
        let processed = match learnt {
            CallResult::Worked | CallResult::Refused => true,
            // The first part of the response may have been enough.
            CallResult::Failed => looks,
            _ => false,
        };
        if processed {
            let others = self.seen.values_mut().filter(|seen| seen.stage == stage.name);
            others.filter(|seen| seen.key != asked.key()).for_each(SeenMessage::record_other_processed);
        }
        let Some(seen) = self.by_key(stage, asked.key()) else { return };
        seen.call_ended(asked, learnt, this_call_only);
        let (event, failed) = (seen.event, seen.failed && stage.name == stages::LINK.name);
        let id = self.events[event].id.clone();
        // The worker deduplicates events by their id.
        let alike = self.seen.values_mut().filter(|seen| seen.is_event() && self.events[seen.event].id == id);
        alike.for_each(|seen| seen.failed |= failed);
    }
}

impl SeenMessage {
    fn call_ended(&mut self, asked: &SimulatedRequest, learnt: CallResult, this_call_only: bool) {
        let looks = matches!(asked, SimulatedRequest::List { .. });
        if let (CallResult::Wait(until), false) = (learnt, this_call_only) {
            self.no_call_until = until;
        }
        // The list of messages in a space says nothing about them.
        if !(looks && self.room) {
            self.unknown_effect = learnt != CallResult::Worked;
        }
        let called = matches!(asked, SimulatedRequest::Links { devices, .. } if !devices.is_empty());
        self.devices_known |= called && learnt == CallResult::Worked;
        if looks {
            self.list_refused = learnt == CallResult::Refused;
        }
        match learnt {
            CallResult::Failed => {
                self.failures += 1;
                self.record_failure(false);
            }
            CallResult::Token => self.record_failure(true),
            CallResult::Later | CallResult::Wait(_) => (self.failed, self.processed_since) = (true, false),
            CallResult::Refused if !looks => self.refused = true,
            _ => {}
        }
    }
}
