//! Prefixes of the phone numbers that messages may be sent to.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::PhoneNumber;

/// The entry that allows every number.
const ANY: &str = "*";

/// Digits of the longest number (ITU-T E.164).
const DIGITS_MAX: usize = 15;

/// The numbers that begin with one of these prefixes. Without a prefix there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct NumberPrefixes(Vec<String>);

impl NumberPrefixes {
    /// True if messages may be sent to `number`.
    #[must_use]
    pub fn allow(&self, number: &PhoneNumber) -> bool {
        self.0.iter().any(|prefix| prefix == ANY || number.reveal().starts_with(prefix.as_str()))
    }

    /// True if messages may be sent to every number.
    #[must_use]
    pub fn allow_all(&self) -> bool {
        self.0.iter().any(|prefix| prefix == ANY)
    }

    /// True if there is no prefix.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<Vec<String>> for NumberPrefixes {
    type Error = String;

    fn try_from(prefixes: Vec<String>) -> Result<Self, Self::Error> {
        match prefixes.iter().position(|prefix| prefix != ANY && !is_prefix(prefix)) {
            None => Ok(Self(prefixes)),
            Some(position) => {
                Err(format!("entry {}: expected + and the first digits of a number, or *", position + 1))
            }
        }
    }
}

fn is_prefix(text: &str) -> bool {
    text.strip_prefix('+').is_some_and(|digits| {
        (1..=DIGITS_MAX).contains(&digits.len())
            && digits.bytes().all(|b| b.is_ascii_digit())
            && !digits.starts_with('0')
    })
}

impl JsonSchema for NumberPrefixes {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "NumberPrefixes".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "array", "items": {"type": "string", "pattern": r"^(\*|\+[1-9][0-9]{0,14})$"}})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(entries: &[&str]) -> Result<NumberPrefixes, String> {
        NumberPrefixes::try_from(entries.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn number_is_allowed_by_its_prefix_only() {
        let number = PhoneNumber::try_from("+34600111222".to_owned()).unwrap();
        for allowed in [&["*"][..], &["+34"], &["+1415", "+3460"], &["+34600111222"]] {
            assert!(prefixes(allowed).unwrap().allow(&number), "{allowed:?}");
        }
        for refused in [&[][..], &["+1"], &["+346001112223"], &["+600"]] {
            assert!(!prefixes(refused).unwrap().allow(&number), "{refused:?}");
        }
    }

    #[test]
    fn entry_is_a_plus_and_digits_or_a_star() {
        for wrong in ["", "34", "+", "+0", "+34 6", "+34*", "**", "+1234567890123456", "＋34"] {
            assert_eq!(
                prefixes(&["+34", wrong]),
                Err("entry 2: expected + and the first digits of a number, or *".to_owned())
            );
        }
    }
}
