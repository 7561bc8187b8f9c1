//! Text form of a rule.

use std::{fmt, str::FromStr};

use serde_json::{Map, Value};

use super::{
    FaultRule,
    written::{ParseError, RuleFields},
};

/// The keys that follow the fault in the text form, in this order.
const MODIFIERS: [&str; 7] = ["retry-after", "http", "shape", "numeric", "times", "share", "seed"];

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::time::Duration;

    use super::*;
    use crate::faults::Fault;

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
            "whatsapp:wrong-shape=missing-response",
            "event:cut=after",
            "sms:refuse=7020,http=200,shape=array,numeric,times=2",
            "receipts:receipt=bad-signature",
            "receipts:delay=20ms",
            "receipts:fail=7282,share=0.5,seed=3",
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
        assert!(error("messages:refuse=7020").contains("sms, whatsapp and event only"));
        assert!(error("sms:refuse=7020,http=99").contains("200 to 599"));
        assert!(error("sms:hang,numeric").contains("with refuse only"));
        assert!(error("receipts:hang").contains("receipts support"));
        assert!(error("any:receipt=drop").contains("receipts only"));
    }
}
