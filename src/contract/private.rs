//! Values that must never be printed: people's names and numbers, links, opaque data of the flow.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

/// Something personal or secret. `Debug` shows only that there is a value, there is no `Display`, and the value
/// is reached through [`Private::reveal`] alone, so that every place which does can be found by that name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Private<T>(T);

impl<T> Private<T> {
    /// Hides `value`.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself, for the wire and for the person it is meant for; never for a log, a span or an error.
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

/// How an id that came from outside may appear in a log: as it is where it is plainly an id, else as a UUIDv5 of
/// it. A flow's author may have used a customer's number or address as an id, and a log must not show it.
///
/// Kept as they are: 1 to 128 letters, digits, `-`, `_`, `.`, `:`, that are not a bare number of 7 digits or more.
#[must_use]
pub fn loggable_id(id: &str) -> Cow<'_, str> {
    let plain = !id.is_empty()
        && id.len() <= 128
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
    let digits = id.bytes().filter(u8::is_ascii_digit).count();
    let number_like = digits >= 7 && id.bytes().all(|b| !b.is_ascii_alphabetic());
    if plain && !number_like {
        Cow::Borrowed(id)
    } else {
        Cow::Owned(super::ids::hash(id.as_bytes()).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_value_is_not_printed() {
        let shown = format!("{:?}", Private::new("+34600111222"));
        assert_eq!(shown, "[private]");
        assert!(!format!("{:#?}", Some(Private::new("+34600111222"))).contains("346"));
    }

    #[test]
    fn ids_are_logged_and_people_are_not() {
        for id in ["visit-48151623", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "a", "flow:7f3a_1.2", "123456"] {
            assert_eq!(loggable_id(id), id);
        }
        for person in ["+34600111222", "34600111222", "600-111-222", "ana@example.com", "Ana García", ""] {
            assert_ne!(loggable_id(person), person);
            assert_eq!(loggable_id(person).len(), 36);
        }
    }
}
