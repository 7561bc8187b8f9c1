//! E-mail addresses of experts.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de::Error};

use super::blank::non_blank;
use crate::contract::private::Private;

/// An e-mail address (RFC 5321 with the characters of RFC 6531), without a display name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Email(Private<String>);

impl Email {
    /// Returns the address, for messages to the expert.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }
}

impl TryFrom<String> for Email {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let options = email_address::Options::default()
            .without_display_text()
            .without_domain_literal()
            .with_required_tld();
        match email_address::EmailAddress::parse_with_options(&text, options) {
            Ok(_) => Ok(Self(Private::new(text))),
            Err(_) => Err("expected an e-mail address such as expert@example.com"),
        }
    }
}

impl Email {
    pub(super) fn non_blank<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Self>, D::Error> {
        non_blank(from)?.map(Self::try_from).transpose().map_err(D::Error::custom)
    }

    pub(super) fn lowercase(&self) -> Self {
        Self(Private::new(self.reveal().to_lowercase()))
    }
}

impl JsonSchema for Email {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Email".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "email"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn email_accepts_only_addresses() {
        for address in ["expert@example.com", "dr.lee+on-call@clinic.example", "josé@example.com"] {
            assert!(Email::try_from(address.to_owned()).is_ok(), "{address}");
        }
        for wrong in
            ["", "expert", "Dr Lee <expert@example.com>", "a@b@c.com", "expert@", "@example.com", "a b@c.com"]
        {
            assert!(Email::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
