//! Text and JSON form of a rule, with one definition of the fields.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::{Endpoint, Fault, FaultRule, Frequency, WrongShape};

/// Maximum size of a huge body, in MiB.
const HUGE_MIB_MAX: u32 = 4096;

/// The keys that follow the fault in the text form, in this order.
const MODIFIERS: [&str; 4] = ["retry-after", "times", "share", "seed"];

/// An invalid rule; the text describes the valid form.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// No `ENDPOINT:` at the beginning.
    #[error(
        "a fault starts with joseencrypt:, messages:, people: or any:, as in messages:status=429,times=3"
    )]
    NoEndpoint,
    /// An unknown key, or a value of the wrong type.
    #[error("{0}")]
    Field(String),
    /// Not exactly one of the fault keys.
    #[error("expected one of status, page, delay, hang, cut, garbage, empty, huge, wrong-shape; got {0}")]
    NotOneFault(String),
    /// A value outside its range, or two keys that exclude each other.
    #[error("{0}")]
    Value(&'static str),
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
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
    Body,
}

impl RuleFields {
    fn fault(&self) -> Result<Fault, ParseError> {
        let delay = self.delay.as_deref().map(duration).transpose()?;
        let given = [
            ("status", self.status.map(|code| Fault::Status { code, retry_after: self.retry_after.clone() })),
            ("page", self.page.map(|code| Fault::Page { code })),
            ("delay", delay.map(Fault::Delay)),
            ("hang", self.hang.then_some(Fault::Hang)),
            (
                "cut",
                self.cut.map(|cut| {
                    if matches!(cut, Cut::Before) { Fault::CutBeforeEffect } else { Fault::CutBody }
                }),
            ),
            ("garbage", self.garbage.then_some(Fault::Garbage)),
            ("empty", self.empty.then_some(Fault::Empty)),
            ("huge", self.huge.map(|mib| Fault::Huge { mib })),
            ("wrong-shape", self.wrong_shape.map(Fault::WrongShape)),
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

impl TryFrom<RuleFields> for FaultRule {
    type Error = ParseError;

    fn try_from(fields: RuleFields) -> Result<Self, ParseError> {
        let endpoint = fields.endpoint.ok_or(ParseError::NoEndpoint)?;
        let (fault, times) = (fields.fault()?, fields.frequency()?);
        let problem = match fault {
            // 1xx codes do not end a request, and hyper can't send codes of other lengths.
            Fault::Status { code, .. } if !(200..=599).contains(&code) => {
                Some("status must be from 200 to 599")
            }
            Fault::Page { code } if !(200..=599).contains(&code) => Some("page must be from 200 to 599"),
            Fault::Huge { mib } if mib > HUGE_MIB_MAX => Some("huge must be at most 4096 MiB"),
            Fault::WrongShape(_) if !endpoint.covers(Endpoint::JoseEncrypt) => {
                Some("wrong-shape is supported for joseencrypt only")
            }
            Fault::Status { .. } => None,
            _ if fields.retry_after.is_some() => Some("retry-after is supported with status only"),
            _ => None,
        };
        if let Some(problem) = problem {
            return Err(ParseError::Value(problem));
        }
        if fields.seed.is_some() && fields.share.is_none() {
            return Err(ParseError::Value("seed is supported with share only"));
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
            Fault::CutBody => fields.cut = Some(Cut::Body),
            Fault::Garbage => fields.garbage = true,
            Fault::WrongShape(shape) => fields.wrong_shape = Some(shape),
            Fault::Huge { mib } => fields.huge = Some(mib),
            Fault::Empty => fields.empty = true,
        }
        match rule.times {
            Frequency::Times(times) => fields.times = Some(times),
            Frequency::Share { share, seed } => (fields.share, fields.seed) = (Some(share), Some(seed)),
            Frequency::Always => {}
        }
        fields
    }
}

impl FromStr for FaultRule {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (endpoint, rest) = text.split_once(':').ok_or(ParseError::NoEndpoint)?;
        let mut fields = Map::new();
        fields.insert("endpoint".to_owned(), endpoint.trim().into());
        for part in rest.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (key, value) =
                part.split_once('=').map_or((part, Value::Bool(true)), |(k, v)| (k, scalar(v)));
            if fields.insert(key.to_owned(), value).is_some() {
                return Err(ParseError::Field(format!("duplicate key {key}")));
            }
        }
        let rule: RuleFields = serde_path_to_error::deserialize(Value::Object(fields))
            .map_err(|error| ParseError::Field(error.to_string()))?;
        rule.try_into()
    }
}

impl fmt::Display for FaultRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = serde_json::to_value(self).map_err(|_| fmt::Error)?;
        let (mut endpoint, mut rest) = (String::new(), Vec::new());
        for (key, value) in fields.as_object().into_iter().flatten() {
            match (key.as_str(), value) {
                ("endpoint", value) => value.as_str().unwrap_or_default().clone_into(&mut endpoint),
                (key, Value::Bool(true)) => rest.push(key.to_owned()),
                (key, Value::String(text)) => rest.push(format!("{key}={text}")),
                (key, other) => rest.push(format!("{key}={other}")),
            }
        }
        rest.sort_by_key(|part| MODIFIERS.iter().position(|key| part.starts_with(key)));
        write!(f, "{endpoint}:{}", rest.join(","))
    }
}

fn scalar(text: &str) -> Value {
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => match (text.parse::<u64>(), text.parse::<f64>()) {
            (Ok(whole), _) => whole.into(),
            (_, Ok(number)) => number.into(),
            _ => text.into(),
        },
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn error(text: &str) -> String {
        text.parse::<FaultRule>().unwrap_err().to_string()
    }

    #[test]
    fn every_form_is_parsed_and_printed_unchanged() {
        for text in [
            "messages:status=429,retry-after=7,times=3",
            "joseencrypt:delay=2000ms,share=0.1,seed=0",
            "any:hang",
            "people:cut=before",
            "any:cut=body,times=1",
            "messages:garbage",
            "messages:page=404,times=2",
            "joseencrypt:empty",
            "joseencrypt:huge=64",
            "joseencrypt:wrong-shape=host-as-guest,times=1",
        ] {
            let rule: FaultRule = text.parse().unwrap();
            assert_eq!(rule.to_string(), text);
            let json = serde_json::to_string(&rule).unwrap();
            assert_eq!(serde_json::from_str::<FaultRule>(&json).unwrap(), rule, "{json}");
        }
    }

    #[test]
    fn delay_accepts_seconds_and_minutes() {
        let delay = |text: &str| text.parse::<FaultRule>().unwrap().fault;
        assert_eq!(delay("any:delay=2s"), Fault::Delay(Duration::from_secs(2)));
        assert_eq!(delay("any:delay=1m"), Fault::Delay(Duration::from_secs(60)));
    }

    #[test]
    fn invalid_rule_is_refused_with_the_valid_form() {
        assert!(error("status=429").contains("starts with joseencrypt:"));
        assert!(error("everything:hang").contains("`joseencrypt`"));
        assert!(error("any:statis=429").contains("unknown field `statis`, expected one of"));
        assert!(error("any:").contains("expected one of status, page, delay"));
        assert!(error("any:hang,empty").contains("got hang and empty"));
        assert!(error("any:hang,times=1,share=0.5").contains("not both"));
        assert!(error("any:hang,share=2").contains("from 0 to 1"));
        assert!(error("any:delay=2").contains("2s"));
        assert!(error("any:status=42").contains("200 to 599"));
        assert!(error("any:page=99").contains("200 to 599"));
        assert!(error("any:hang,retry-after=3").contains("with status only"));
        assert!(error("any:hang,hang").contains("duplicate key hang"));
        assert!(error("messages:wrong-shape=http-base").contains("joseencrypt only"));
    }
}
