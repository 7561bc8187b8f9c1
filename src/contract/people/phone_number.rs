//! Phone numbers of guests.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::calling_code;
use crate::contract::private::Private;

/// An E.164 number with `+`: a known country code, at most 15 digits (ITU-T E.164).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct PhoneNumber(Private<String>);

impl PhoneNumber {
    /// Returns the number, for messages to the guest.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }
}

impl TryFrom<String> for PhoneNumber {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if calling_code::is_e164(&text) {
            Ok(Self(Private::new(text)))
        } else {
            Err("expected an E.164 number such as +14155550123")
        }
    }
}

impl JsonSchema for PhoneNumber {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "PhoneNumber".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": r"^\+[1-9][0-9]{6,14}$", "description": "E.164 number with +"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phone_number_accepts_only_e164() {
        for number in [
            "+34600111222",
            "+14155550123",
            "+15551234567",
            "+390612345678",
            "+8613800138000",
            "+4915112345678",
        ] {
            assert!(PhoneNumber::try_from(number.to_owned()).is_ok(), "{number}");
        }
        for wrong in [
            "34600111222",
            "+34 600 111 222",
            "+0600111222",
            "+",
            "",
            "+123456",
            "+1234567890123456",
            "+99912345678",
            "tel:+34600111222",
            "+34600111222;ext=1",
            "+٣٤٦٠٠١١١٢٢٢",
            "+3460011122a",
        ] {
            assert!(PhoneNumber::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
