//! Values that must never be printed: names and numbers of people, links, opaque data of the flow.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

/// A personal or secret value. `Debug` prints a placeholder and there is no `Display`. Code reads the value only with
/// [`Private::reveal`], so a search for that name finds every use.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Private<T>(T);

impl<T> Private<T> {
    /// Wraps `value`.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// Returns the value, for the wire and for its recipient. Never use it in a log, a span or an error.
    pub const fn reveal(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Private<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[private]")
    }
}

impl<T> From<T> for Private<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T: JsonSchema> JsonSchema for Private<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// Digits in a row that may be a phone number.
const PHONE_DIGITS: usize = 7;

/// Returns an external id unchanged if it is safe to log, else a UUIDv5 of it. A flow's author may have used a customer's number
/// or address as an id, and a log must not show it.
///
/// Safe ids are UUIDs, and ids of 1 to 128 letters, digits, `-`, `_`, `.` and `:` without 7 digits in a row; separators do not
/// end a row. The shortest phone numbers with an area have 7 digits, for example in Iceland.
#[must_use]
pub fn loggable_id(id: &str) -> Cow<'_, str> {
    let allowed_characters = !id.is_empty()
        && id.len() <= 128
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
    let is_safe = allowed_characters && (!has_phone_number(id) || uuid::Uuid::try_parse(id).is_ok());
    if is_safe { Cow::Borrowed(id) } else { Cow::Owned(super::ids::hash(id.as_bytes()).to_string()) }
}

/// True if `text` contains as many digits in a row as a phone number has. What people write between the digits of a number
/// does not end a row.
#[must_use]
pub(crate) fn has_phone_number(text: &str) -> bool {
    let between = |c: char| c.is_whitespace() || "-_.:/()\u{2010}\u{2011}\u{2013}".contains(c);
    let joined: String = text.chars().filter(|c| !between(*c)).collect();
    joined.split(|c: char| !c.is_ascii_digit()).any(|row| row.len() >= PHONE_DIGITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_private_prints_no_value() {
        let shown = format!("{:?}", Private::new("+34600111222"));
        assert_eq!(shown, "[private]");
        assert!(!format!("{:#?}", Some(Private::new("+34600111222"))).contains("346"));
    }

    #[test]
    fn loggable_id_keeps_ids_and_hashes_personal_data() {
        for id in ["visit-481516", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "a", "flow:7f3a_1.2", "123456"] {
            assert_eq!(loggable_id(id), id);
        }
        for person in [
            "+34600111222",
            "34600111222",
            "600-111-222",
            "ana@example.com",
            "Ana García",
            "",
            "tel:34600111222",
            "wa-34600111222",
            "34600111222x",
            "sms-91234567",
            "call-555-1234",
            "3460-0111-222a",
        ] {
            assert_ne!(loggable_id(person), person);
            assert_eq!(loggable_id(person).len(), 36);
        }
    }
}
