//! Time zones of the times in messages to guests.

use std::borrow::Cow;

use jiff::tz::TimeZone;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserializer, Serialize, de::Error};

use super::blank::{blanks, non_blank};

/// Maximum length of a name, in bytes. The longest one has 32.
const ZONE_BYTES_MAX: usize = 64;

/// The name of a time zone in the IANA database, such as `Europe/Madrid`, as the database writes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct ZoneName(String);

impl ZoneName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn non_blank<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Self>, D::Error> {
        let Some(text) = non_blank(from)? else { return Ok(None) };
        let zone =
            TimeZone::get(&text).ok().filter(|zone| text.len() <= ZONE_BYTES_MAX && !zone.is_unknown());
        let name = zone.as_ref().and_then(TimeZone::iana_name);
        let expected = || D::Error::custom("expected a time zone of the IANA database such as Europe/Madrid");
        name.map(|name| Some(Self(name.to_owned()))).ok_or_else(expected)
    }
}

impl JsonSchema for ZoneName {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        String::schema_name()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let pattern = concat!("^([", blanks!(), "]*|[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*)$");
        json_schema!({"type": "string", "maxLength": ZONE_BYTES_MAX, "pattern": pattern})
    }
}
