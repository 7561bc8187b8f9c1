//! Guests and experts, as an event names them.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{decode::Invalid, private::Private};

/// How a guest is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", try_from = "String")]
#[schemars(inline, !try_from)]
pub enum Channel {
    /// A text message.
    Sms,
    /// A `WhatsApp` message.
    Whatsapp,
}

impl Channel {
    /// As on the wire: `sms` or `whatsapp`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sms => "sms",
            Self::Whatsapp => "whatsapp",
        }
    }

    /// The routing key of a guest link on this channel.
    #[must_use]
    pub const fn routing_key(self) -> &'static str {
        match self {
            Self::Sms => "guest.sms",
            Self::Whatsapp => "guest.whatsapp",
        }
    }
}

impl TryFrom<String> for Channel {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "sms" => Ok(Self::Sms),
            "whatsapp" => Ok(Self::Whatsapp),
            _ => Err("expected sms or whatsapp"),
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An E.164 number with its `+`: a known country code, at most 15 digits (ITU-T E.164).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct PhoneNumber(Private<String>);

impl PhoneNumber {
    /// The number, for the message that it is sent to.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }
}

impl TryFrom<String> for PhoneNumber {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits = text.strip_prefix('+').unwrap_or_default();
        let shape = (7..=15).contains(&digits.len())
            && !digits.starts_with('0')
            && digits.bytes().all(|b| b.is_ascii_digit());
        // Only what E.164 itself says, with the country codes that exist. A number is not refused for standing in
        // no known block of its country: numbering plans change sooner than a deployed program.
        if shape && phonenumber::parse(None, &text).is_ok() {
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
        json_schema!({"type": "string", "pattern": r"^\+[1-9][0-9]{6,14}$", "description": "E.164 with its +"})
    }
}

/// An e-mail address (RFC 5321 with RFC 6531's characters), without a display name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Email(Private<String>);

impl Email {
    /// The address, for the message that it is sent to.
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

/// Somebody who joins as a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// How the guest is reached.
    pub channel: Channel,
    /// The guest's number.
    pub address: PhoneNumber,
    /// What the guest is called, for the message and the expert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Private<String>>,
    /// The language for the message, such as `es` or `pt-BR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
}

/// Somebody who joins as host: exactly one of `email`, `personId` and `roomId` says where the link goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    {"required": ["email"], "properties": {"email": {"type": "string"}}},
    {"required": ["personId"], "properties": {"personId": {"type": "string", "minLength": 1}}},
    {"required": ["roomId"], "properties": {"roomId": {"type": "string", "minLength": 1}}},
]))]
pub struct Expert {
    /// The e-mail address of the expert's Webex account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,
    /// The expert's Webex person id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person_id: Option<Private<String>>,
    /// A Webex space, for a team of experts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_id: Option<Private<String>>,
    /// What the expert is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Private<String>>,
}

/// The one place a host link is delivered to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostAddress<'a> {
    /// A person, by e-mail address.
    Email(&'a Email),
    /// A person, by Webex id.
    Person(&'a str),
    /// A space, by Webex id.
    Room(&'a str),
}

impl Expert {
    /// Where this expert's link goes.
    ///
    /// # Errors
    /// [`Invalid`] unless exactly one of the three is given, and the ids are not empty.
    pub fn address(&self) -> Result<HostAddress<'_>, Invalid> {
        let address = match (&self.email, &self.person_id, &self.room_id) {
            (Some(email), None, None) => return Ok(HostAddress::Email(email)),
            (None, Some(person), None) => ("personId", HostAddress::Person(person.reveal())),
            (None, None, Some(room)) => ("roomId", HostAddress::Room(room.reveal())),
            _ => return Err(Invalid::new("", "expected exactly one of email, personId, roomId")),
        };
        match address {
            (field, HostAddress::Person("") | HostAddress::Room("")) => {
                Err(Invalid::new(field, "expected a Webex id"))
            }
            (_, address) => Ok(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e164_numbers_are_taken_and_nothing_else() {
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

    #[test]
    fn e_mail_addresses_are_taken_and_nothing_else() {
        for address in ["expert@example.com", "dr.lee+on-call@clinic.example", "josé@example.com"] {
            assert!(Email::try_from(address.to_owned()).is_ok(), "{address}");
        }
        for wrong in
            ["", "expert", "Dr Lee <expert@example.com>", "a@b@c.com", "expert@", "@example.com", "a b@c.com"]
        {
            assert!(Email::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_expert_has_exactly_one_address() {
        let read = |json: &str| {
            serde_json::from_str::<Expert>(json).unwrap().address().map(|_| ()).map_err(|e| e.to_string())
        };
        assert_eq!(read(r#"{"email":"a@b.co"}"#), Ok(()));
        assert_eq!(read(r#"{"roomId":"Y2lzY28","name":"Team"}"#), Ok(()));
        assert!(read(r"{}").unwrap_err().contains("exactly one of"));
        assert!(read(r#"{"email":"a@b.co","personId":"x"}"#).unwrap_err().contains("exactly one of"));
        assert_eq!(read(r#"{"personId":""}"#).unwrap_err(), "`personId`: expected a Webex id");
    }
}
