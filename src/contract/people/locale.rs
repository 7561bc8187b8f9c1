//! Languages of messages to guests.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserializer, Serialize, de::Error};

use super::blank::{blanks, non_blank};

/// Maximum length of a locale, in bytes. Usual tags have at most 35 (RFC 5646, section 4.4.1).
const LOCALE_BYTES_MAX: usize = 64;

/// A well-formed language tag (BCP 47, RFC 5646), such as `es` or `pt-BR`, with its letter case unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Locale(String);

impl Locale {
    /// The tag.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn non_blank<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Self>, D::Error> {
        let Some(text) = non_blank(from)? else { return Ok(None) };
        // POSIX and Java write en_US.
        let tag = text.replace('_', "-");
        if tag.len() <= LOCALE_BYTES_MAX && oxilangtag::LanguageTag::parse(tag.as_str()).is_ok() {
            Ok(Some(Self(tag)))
        } else {
            Err(D::Error::custom("expected a language tag (BCP 47) such as es or pt-BR"))
        }
    }
}

impl JsonSchema for Locale {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        String::schema_name()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let pattern = concat!("^([", blanks!(), "]*|[A-Za-z0-9]{1,8}([-_][A-Za-z0-9]{1,8})*)$");
        json_schema!({"type": "string", "maxLength": LOCALE_BYTES_MAX, "pattern": pattern})
    }
}
