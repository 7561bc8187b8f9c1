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

/// Returns an external id unchanged if it is safe to log, else a UUIDv5 of it. A flow's author may have used a customer's number
/// or address as an id, and a log must not show it.
///
/// Safe ids are UUIDs, and ids of 1 to 128 letters, digits, `-`, `_`, `.` and `:` without a long run of digits. A run is long
/// from 9 digits on, or from 7 if the id has no letter; separators do not end a run. So no id is logged that could be a phone
/// number.
#[must_use]
pub fn loggable_id(id: &str) -> Cow<'_, str> {
    let allowed_characters = !id.is_empty()
        && id.len() <= 128
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
    let joined = id.replace(['-', '_', '.', ':'], "");
    let run = joined.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0);
    let limit = if joined.bytes().any(|b| b.is_ascii_alphabetic()) { 9 } else { 7 };
    let is_safe = allowed_characters && (run < limit || uuid::Uuid::try_parse(id).is_ok());
    if is_safe { Cow::Borrowed(id) } else { Cow::Owned(super::ids::hash(id.as_bytes()).to_string()) }
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
        for id in ["visit-48151623", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "a", "flow:7f3a_1.2", "123456"] {
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
            "3460-0111-222a",
        ] {
            assert_ne!(loggable_id(person), person);
            assert_eq!(loggable_id(person).len(), 36);
        }
    }
}
