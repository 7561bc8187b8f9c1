//! The fate of one call, and its result as the worker receives it.

use std::fmt;

use instant_connect_worker::{contract::stage::StageDef, stages};
use jiff::{SignedDuration, Timestamp};

use super::{
    requests::SimulatedRequest,
    servers::{Outage, Servers},
};
use crate::world::{Common, Part};

/// The result of a call as the worker receives it, in the terms of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallResult {
    /// The call succeeded.
    Worked,
    /// The call failed; an attempt may be counted.
    Failed,
    /// The session ended before the API's usual response time.
    CutOff,
    /// The API is rate limited, until the given time if the response names one.
    Wait(Option<Timestamp>),
    /// This call only is to be repeated later.
    Later,
    /// The token is refused.
    Token,
    /// The request is refused.
    Refused,
}

impl CallResult {
    /// The name in the totals.
    pub(crate) const fn counted(self) -> &'static str {
        match self {
            Self::Worked => "successful calls",
            Self::Failed => "failed calls",
            Self::CutOff => "calls cut off by the session's end",
            Self::Later => "deferred calls",
            Self::Wait(_) => "rate limits",
            Self::Token => "refused tokens",
            Self::Refused => "refused requests",
        }
    }
}

/// A Retry-After.
#[derive(Clone, Copy, Debug)]
pub(super) enum RetryAfter {
    Seconds(i64),
    Date(Timestamp),
    Unreadable,
}

/// The way in which an API treats one call.
#[derive(Clone, Copy, Debug)]
pub(super) enum CallFate {
    Fine,
    Unreachable,
    /// No response, with or without the effect.
    Hangs(bool),
    /// This status and Retry-After, with or without the effect.
    Status(u16, Option<RetryAfter>, bool),
    /// The effect, and a response that breaks off.
    Cut,
    /// The effect, and a response that never ends.
    Endless,
    /// A proxy's page with this status, with or without the effect.
    Page(u16, bool),
    /// The effect, and a response that is not JSON.
    Garbage,
    /// The effect, and a response that is too large.
    Huge,
    /// The effect, and a response that does not fit the request.
    Wrong,
    /// This status and code of Webex Connect, with or without the effect.
    Code(u16, u32, bool),
}

/// Codes of Webex Connect with a status: the result, and true if the message may have been sent.
const CODES: &[(u16, u32, CallResult, bool)] = &[
    (500, 7006, CallResult::Failed, false),
    (200, 7006, CallResult::Failed, false),
    (400, 7004, CallResult::Refused, false),
    (200, 7102, CallResult::Refused, false),
    (400, 7020, CallResult::Wait(None), false),
    (200, 7020, CallResult::Wait(None), false),
    (403, 7001, CallResult::Token, false),
    (400, 7998, CallResult::Failed, false),
    (500, 7998, CallResult::Failed, true),
    (200, 7998, CallResult::Failed, true),
];

impl CallFate {
    /// The fate of the next call to the API of `stage`.
    pub(super) fn of(network: &mut Part<'_, Servers>, stage: &StageDef) -> Self {
        let Part { own, common } = network;
        match own.outage(stage) {
            Some(Outage::Unreachable) => return Self::Unreachable,
            Some(Outage::Status(status)) => return Self::Status(status, None, false),
            Some(Outage::Hangs) => return Self::Hangs(common.random.bool()),
            Some(Outage::Limited(until)) if until > common.now() => {
                let left = until.duration_since(common.now()).as_secs() + 1;
                return Self::Status(429, Some(retry_after(common, left)), false);
            }
            _ => {}
        }
        let share = common.plan.bad_answer;
        if !common.chance(share) {
            return Self::Fine;
        }
        if is_connect(stage) { Self::random_of_connect(common) } else { Self::random(common) }
    }

    /// A random fault of one call to Webex Connect. Where the worker takes a message for not sent, there is no effect.
    fn random_of_connect(common: &mut Common) -> Self {
        let random = &mut common.random;
        match random.u32(..20) {
            0 => Self::Unreachable,
            1..=3 => Self::Hangs(random.bool()),
            4 => Self::Status([401, 403][random.usize(..2)], None, false),
            5 => Self::Status([400, 404, 405, 413, 421, 422, 425][random.usize(..7)], None, false),
            6 => {
                let seconds = [0, 1, 3, 7, 20, 90][random.usize(..6)];
                Self::Status(429, Some(retry_after(common, seconds)), false)
            }
            7 => Self::Status(429, None, false),
            8 => Self::Status([503, 423, 502][random.usize(..3)], Some(RetryAfter::Seconds(5)), false),
            9 | 10 => Self::Status([408, 500, 502, 503, 504][random.usize(..5)], None, random.bool()),
            11 => Self::Status([300, 302, 101, 600 - 1][random.usize(..4)], None, false),
            12 => Self::Cut,
            13 => Self::Endless,
            14 => Self::Garbage,
            15 => Self::Huge,
            16 => Self::Page([400, 401, 403, 404, 413, 503][random.usize(..6)], false),
            17 => Self::Page([200, 500, 502, 504][random.usize(..4)], random.bool()),
            18 => Self::Wrong,
            _ => {
                let (status, code, _, unknown) = CODES[random.usize(..CODES.len())];
                Self::Code(status, code, unknown && random.bool())
            }
        }
    }

    /// The fate of a message to a guest whose messages are never answered.
    pub(super) fn of_unanswered(network: &mut Part<'_, Servers>, asked: &SimulatedRequest) -> Option<Self> {
        let common = &mut *network.common;
        let number = common.plan.senders.as_ref()?.unanswered?;
        let SimulatedRequest::ToGuest(message) = asked else { return None };
        message.to.starts_with(&format!("+34600{number:03}")).then(|| match common.random.u32(..4) {
            0 => Self::Hangs(common.random.bool()),
            1 => Self::Status(500, None, common.random.bool()),
            2 => Self::Endless,
            _ => Self::Cut,
        })
    }

    /// A random fault of one call.
    fn random(common: &mut Common) -> Self {
        let random = &mut common.random;
        match random.u32(..20) {
            0 => Self::Unreachable,
            1 => Self::Hangs(random.bool()),
            2 => Self::Status(401, None, false),
            3 => Self::Status(403, None, false),
            4 => Self::Status([400, 404, 409, 422][random.usize(..4)], None, false),
            5 | 6 => {
                let seconds = [0, 1, 3, 7, 20, 90][random.usize(..6)];
                Self::Status(429, Some(retry_after(common, seconds)), false)
            }
            7 => Self::Status(429, None, false),
            8 => Self::Status(429, Some(RetryAfter::Unreadable), false),
            9 => Self::Status([503, 423, 502][random.usize(..3)], Some(RetryAfter::Seconds(5)), false),
            10..=12 => Self::Status([500, 502, 503, 504][random.usize(..4)], None, random.bool()),
            13 => Self::Status([300, 302, 101, 600 - 1][random.usize(..4)], None, false),
            14 => Self::Cut,
            15 => Self::Endless,
            16 => Self::Garbage,
            17 => Self::Huge,
            18 => {
                let statuses = [200, 200, 204, 400, 401, 403, 404, 404, 409, 413, 421, 502];
                Self::Page(statuses[random.usize(..statuses.len())], random.u32(..4) == 0)
            }
            _ => Self::Wrong,
        }
    }

    /// True if the call has its effect.
    pub(super) const fn has_effect(&self) -> bool {
        match self {
            Self::Unreachable => false,
            Self::Hangs(effect)
            | Self::Status(_, _, effect)
            | Self::Page(_, effect)
            | Self::Code(_, _, effect) => *effect,
            _ => true,
        }
    }

    /// The result of a response with this fate that the worker reads `now`.
    pub(super) fn learnt(self, stage: &StageDef, now: Timestamp) -> CallResult {
        match self {
            Self::Fine => CallResult::Worked,
            Self::Code(status, code, _) => {
                let known = CODES.iter().find(|known| (known.0, known.1) == (status, code));
                known.map_or(CallResult::Failed, |known| known.2)
            }
            Self::Status(403, ..) if is_connect(stage) => CallResult::Token,
            Self::Status(404 | 405 | 408 | 421 | 425, None, _) if is_connect(stage) => CallResult::Failed,
            Self::Status(401, ..) => CallResult::Token,
            // With 403, Webex Messages refuses a request and not the token.
            Self::Status(403, ..) if stage.name == stages::LINK.name => CallResult::Token,
            Self::Status(429, None, _) => CallResult::Wait(None),
            Self::Status(423, Some(_), _) => CallResult::Later,
            Self::Status(_, Some(retry_after), _) => CallResult::Wait(retry_after.until(now)),
            Self::Status(423, ..) => CallResult::Failed,
            Self::Status(400..=499, ..) => CallResult::Refused,
            // The effect is unknown after a response that is not Webex's, and after an unreadable success.
            _ => CallResult::Failed,
        }
    }
}

/// True if the stage calls Webex Connect.
fn is_connect(stage: &StageDef) -> bool {
    [stages::SMS.name, stages::WHATSAPP.name].contains(&stage.name)
}

/// A Retry-After of `seconds` from now, as seconds or as a date.
fn retry_after(common: &mut Common, seconds: i64) -> RetryAfter {
    if common.random.bool() {
        return RetryAfter::Seconds(seconds);
    }
    let at = common.now().saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    RetryAfter::Date(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

impl RetryAfter {
    /// The end of the delay if the header is read `now`.
    fn until(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Seconds(seconds) => now.checked_add(SignedDuration::from_secs(seconds)).ok(),
            Self::Date(at) => Some(at),
            Self::Unreadable => None,
        }
    }
}

impl fmt::Display for RetryAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seconds(seconds) => seconds.fmt(f),
            Self::Date(at) => f.write_str(&httpdate::fmt_http_date((*at).into())),
            Self::Unreadable => f.write_str("soon"),
        }
    }
}
