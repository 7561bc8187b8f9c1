//! JSON form of a rule, and the fields of both forms.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Endpoint, Fault, FaultRule, Frequency, ReceiptFault, RefusalFault, RefusalShape, WrongShape};

/// Maximum size of a huge body, in MiB.
const HUGE_MIB_MAX: u32 = 4096;

/// An invalid rule; the text describes the valid form.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// No `ENDPOINT:` at the beginning.
    #[error(
        "a fault starts with joseencrypt:, messages:, people:, sms:, whatsapp:, event:, receipts: or any:, \
         as in messages:status=429,times=3"
    )]
    NoEndpoint,
    /// An unknown key, or a value of the wrong type.
    #[error("{0}")]
    Field(String),
    /// Not exactly one of the fault keys.
    #[error(
        "expected one of status, page, delay, hang, cut, garbage, empty, huge, wrong-shape, refuse, receipt, fail; \
         got {0}"
    )]
    NotOneFault(String),
    /// A value outside its range, or two keys that exclude each other.
    #[error("{0}")]
    Value(&'static str),
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[expect(clippy::struct_excessive_bools, reason = "these are keys without a value")]
pub(super) struct RuleFields {
    endpoint: Option<Endpoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(default, deserialize_with = "number_or_text", skip_serializing_if = "Option::is_none")]
    retry_after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<u16>,
    #[serde(default, deserialize_with = "number_or_text", skip_serializing_if = "Option::is_none")]
    delay: Option<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    hang: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cut: Option<Cut>,
    #[serde(default, skip_serializing_if = "is_false")]
    garbage: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    empty: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    huge: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wrong_shape: Option<WrongShape>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refuse: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shape: Option<RefusalShape>,
    #[serde(default, skip_serializing_if = "is_false")]
    numeric: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<ReceiptEffect>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fail: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    share: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Cut {
    Before,
    After,
    Body,
}

impl From<Cut> for Fault {
    fn from(cut: Cut) -> Self {
        match cut {
            Cut::Before => Self::CutBeforeEffect,
            Cut::After => Self::CutAfterEffect,
            Cut::Body => Self::CutBody,
        }
    }
}

/// [`ReceiptFault`] without the failure, which has a key of its own.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ReceiptEffect {
    Drop,
    Duplicate,
    Reorder,
    BadSignature,
}

impl From<ReceiptEffect> for ReceiptFault {
    fn from(effect: ReceiptEffect) -> Self {
        match effect {
            ReceiptEffect::Drop => Self::Drop,
            ReceiptEffect::Duplicate => Self::Duplicate,
            ReceiptEffect::Reorder => Self::Reorder,
            ReceiptEffect::BadSignature => Self::BadSignature,
        }
    }
}

impl RuleFields {
    fn fault(&self) -> Result<Fault, ParseError> {
        let delay = self.delay.as_deref().map(duration).transpose()?;
        let given = [
            ("status", self.status.map(|code| Fault::Status { code, retry_after: self.retry_after.clone() })),
            ("page", self.page.map(|code| Fault::Page { code })),
            ("delay", delay.map(Fault::Delay)),
            ("hang", self.hang.then_some(Fault::Hang)),
            ("cut", self.cut.map(Fault::from)),
            ("garbage", self.garbage.then_some(Fault::Garbage)),
            ("empty", self.empty.then_some(Fault::Empty)),
            ("huge", self.huge.map(|mib| Fault::Huge { mib })),
            ("wrong-shape", self.wrong_shape.map(Fault::WrongShape)),
            ("refuse", self.refuse.map(|code| Fault::Refuse(self.refusal(code)))),
            ("receipt", self.receipt.map(|effect| Fault::Receipt(effect.into()))),
            ("fail", self.fail.map(|code| Fault::Receipt(ReceiptFault::Fail(code)))),
        ];
        let mut given: Vec<_> = given.into_iter().filter_map(|(key, fault)| Some((key, fault?))).collect();
        match (given.pop(), given.as_slice()) {
            (Some((_, fault)), []) => Ok(fault),
            (None, _) => Err(ParseError::NotOneFault("none".to_owned())),
            (Some((last, _)), others) => {
                let keys = others.iter().map(|(key, _)| *key).chain([last]);
                Err(ParseError::NotOneFault(keys.collect::<Vec<_>>().join(" and ")))
            }
        }
    }

    /// Text for a key that its fault or its frequency does not support.
    fn misplaced(&self, fault: &Fault) -> Option<&'static str> {
        let refusal = self.http.is_some() || self.shape.is_some() || self.numeric;
        if self.retry_after.is_some() && !matches!(fault, Fault::Status { .. }) {
            Some("retry-after is supported with status only")
        } else if refusal && !matches!(fault, Fault::Refuse(_)) {
            Some("http, shape and numeric are supported with refuse only")
        } else if self.seed.is_some() && self.share.is_none() {
            Some("seed is supported with share only")
        } else {
            None
        }
    }

    fn refusal(&self, code: u32) -> RefusalFault {
        RefusalFault { code, http: self.http, shape: self.shape, numeric: self.numeric }
    }

    fn frequency(&self) -> Result<Frequency, ParseError> {
        match (self.times, self.share) {
            (Some(_), Some(_)) => Err(ParseError::Value("expected times or share, not both")),
            (None, None) => Ok(Frequency::Always),
            (Some(0), None) => Err(ParseError::Value("times must be at least 1")),
            (Some(times), None) => Ok(Frequency::Times(times)),
            (None, Some(share)) if (0.0..=1.0).contains(&share) => {
                Ok(Frequency::Share { share, seed: self.seed.unwrap_or(0) })
            }
            (None, Some(_)) => Err(ParseError::Value("share must be a number from 0 to 1")),
        }
    }
}

fn out_of_range(fault: &Fault) -> Option<&'static str> {
    // 1xx codes do not end a request, and hyper can't send codes of other lengths.
    let statuses = 200..=599;
    match fault {
        Fault::Status { code, .. } if !statuses.contains(code) => Some("status must be from 200 to 599"),
        Fault::Page { code } if !statuses.contains(code) => Some("page must be from 200 to 599"),
        Fault::Refuse(RefusalFault { http: Some(http), .. }) if !statuses.contains(http) => {
            Some("http must be from 200 to 599")
        }
        Fault::Huge { mib } if *mib > HUGE_MIB_MAX => Some("huge must be at most 4096 MiB"),
        _ => None,
    }
}

/// Text for a fault that its endpoint can't have.
fn only_for(fault: &Fault) -> &'static str {
    match fault {
        Fault::WrongShape(WrongShape::EmptyResponse | WrongShape::MissingResponse) | Fault::Refuse(_) => {
            "empty-response, missing-response and refuse are supported for sms, whatsapp and event only"
        }
        Fault::WrongShape(_) => "this wrong-shape is supported for joseencrypt only",
        Fault::Receipt(_) => "receipt and fail are supported for receipts only",
        _ => "receipts support delay, receipt and fail only",
    }
}

impl TryFrom<RuleFields> for FaultRule {
    type Error = ParseError;

    fn try_from(fields: RuleFields) -> Result<Self, ParseError> {
        let endpoint = fields.endpoint.ok_or(ParseError::NoEndpoint)?;
        let (fault, times) = (fields.fault()?, fields.frequency()?);
        let problem = out_of_range(&fault)
            .or_else(|| (!fault.suits(endpoint)).then_some(only_for(&fault)))
            .or_else(|| fields.misplaced(&fault));
        if let Some(problem) = problem {
            return Err(ParseError::Value(problem));
        }
        Ok(Self { endpoint, fault, times })
    }
}

impl From<FaultRule> for RuleFields {
    fn from(rule: FaultRule) -> Self {
        let mut fields = Self { endpoint: Some(rule.endpoint), ..Self::default() };
        match rule.fault {
            Fault::Status { code, retry_after } => {
                (fields.status, fields.retry_after) = (Some(code), retry_after);
            }
            Fault::Page { code } => fields.page = Some(code),
            Fault::Delay(delay) => fields.delay = Some(format!("{}ms", delay.as_millis())),
            Fault::Hang => fields.hang = true,
            Fault::CutBeforeEffect => fields.cut = Some(Cut::Before),
            Fault::CutAfterEffect => fields.cut = Some(Cut::After),
            Fault::CutBody => fields.cut = Some(Cut::Body),
            Fault::Garbage => fields.garbage = true,
            Fault::WrongShape(shape) => fields.wrong_shape = Some(shape),
            Fault::Huge { mib } => fields.huge = Some(mib),
            Fault::Empty => fields.empty = true,
            Fault::Refuse(refusal) => {
                fields.refuse = Some(refusal.code);
                (fields.http, fields.shape, fields.numeric) = (refusal.http, refusal.shape, refusal.numeric);
            }
            Fault::Receipt(ReceiptFault::Fail(code)) => fields.fail = Some(code),
            Fault::Receipt(ReceiptFault::Drop) => fields.receipt = Some(ReceiptEffect::Drop),
            Fault::Receipt(ReceiptFault::Duplicate) => fields.receipt = Some(ReceiptEffect::Duplicate),
            Fault::Receipt(ReceiptFault::Reorder) => fields.receipt = Some(ReceiptEffect::Reorder),
            Fault::Receipt(ReceiptFault::BadSignature) => fields.receipt = Some(ReceiptEffect::BadSignature),
        }
        match rule.times {
            Frequency::Times(times) => fields.times = Some(times),
            Frequency::Share { share, seed } => (fields.share, fields.seed) = (Some(share), Some(seed)),
            Frequency::Always => {}
        }
        fields
    }
}

fn duration(text: &str) -> Result<Duration, ParseError> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => 0,
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(milliseconds)) {
        Some(total) if milliseconds > 0 => Ok(Duration::from_millis(total)),
        _ => Err(ParseError::Value("delay must be a whole number with a unit: 500ms, 2s or 1m")),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde requires this signature")]
fn is_false(flag: &bool) -> bool {
    !flag
}

fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a number or a string")]
    enum Either {
        Number(serde_json::Number),
        Text(String),
    }
    Ok(Option::<Either>::deserialize(deserializer)?.map(|either| match either {
        Either::Number(number) => number.to_string(),
        Either::Text(text) => text,
    }))
}
