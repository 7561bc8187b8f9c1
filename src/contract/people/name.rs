//! Names of guests and experts.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use super::blank::{is_blank, is_format_control};
use crate::contract::private::Private;

/// Maximum length of a name, in characters.
pub const NAME_CHARS_MAX: usize = 256;

/// A name in one line: not blank, and without the characters of `is_format_control`.
///
/// Parsing has no length limit, because a published link must not be lost over a long name. Only the check of a start event
/// enforces [`NAME_CHARS_MAX`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(Private<String>);

impl Name {
    /// Returns the name, for messages to people.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }

    /// Returns the name as a field of a link message.
    #[must_use]
    pub fn private(&self) -> Private<String> {
        self.0.clone()
    }

    /// Reads a name and joins its lines. `None` if the text is blank.
    fn of(text: &str) -> Option<Self> {
        let lines =
            text.split(|c: char| c.is_whitespace() && is_format_control(c)).filter(|line| !line.is_empty());
        let name: String =
            lines.collect::<Vec<_>>().join(" ").chars().filter(|c| !is_format_control(*c)).collect();
        (!is_blank(&name)).then(|| Self(Private::new(name)))
    }

    pub(super) fn non_blank<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Self>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.and_then(|text| Self::of(&text)))
    }
}

impl JsonSchema for Name {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        String::schema_name()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": NAME_CHARS_MAX})
    }
}
