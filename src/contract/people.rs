//! Guests and experts of a start event.

use std::{borrow::Cow, collections::HashSet, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use strum::EnumString;

use super::{decode::Invalid, private::Private};

/// Channel of the guest's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, EnumString)]
#[serde(rename_all = "lowercase", try_from = "String")]
#[schemars(inline, !try_from)]
#[strum(serialize_all = "lowercase")]
pub enum Channel {
    /// A text message.
    Sms,
    /// A `WhatsApp` message.
    Whatsapp,
}

impl Channel {
    /// The value on the wire: `sms` or `whatsapp`.
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
        text.parse().map_err(|_| "expected sms or whatsapp")
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

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
        let digits = text.strip_prefix('+').unwrap_or_default();
        let shape = (7..=15).contains(&digits.len())
            && !digits.starts_with('0')
            && digits.bytes().all(|b| b.is_ascii_digit());
        // Checks only E.164 and existing country codes. Number blocks within a country are not checked, because numbering
        // plans change more often than deployed programs.
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
        json_schema!({"type": "string", "pattern": r"^\+[1-9][0-9]{6,14}$", "description": "E.164 number with +"})
    }
}

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
    fn non_blank<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Self>, D::Error> {
        non_blank(from)?.map(Self::try_from).transpose().map_err(D::Error::custom)
    }

    fn lowercase(&self) -> Self {
        Self(Private::new(self.reveal().to_lowercase()))
    }
}

/// Reads a text. A blank one counts as absent, because flow templates write an empty string for a missing value.
fn non_blank<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.filter(|text| !is_blank(text)))
}

fn non_blank_id<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Private<String>>, D::Error> {
    Ok(non_blank(from)?.map(Private::new))
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

    fn non_blank<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Self>, D::Error> {
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

/// True for characters that change how the text around a name is displayed: controls, line separators, and bidirectional
/// embeddings, overrides and isolates. The marks LRM, RLM and ALM and the joiners are kept, because names contain them.
fn is_format_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// True if `text` has no visible character.
pub(super) fn is_blank(text: &str) -> bool {
    let is_invisible = |c: char| {
        c.is_whitespace()
            || is_format_control(c)
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
    };
    text.chars().all(is_invisible)
}

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

    fn non_blank<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Self>, D::Error> {
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
        let pattern = r"^(\s*|[A-Za-z0-9]{1,8}([-_][A-Za-z0-9]{1,8})*)$";
        json_schema!({"type": "string", "maxLength": LOCALE_BYTES_MAX, "pattern": pattern})
    }
}

/// A person who joins as a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Channel of the guest's message.
    pub channel: Channel,
    /// The guest's phone number.
    pub address: PhoneNumber,
    /// The guest's name, for the message to the guest and for the expert.
    #[serde(default, deserialize_with = "Name::non_blank", skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Language of the message, such as `es` or `pt-BR`.
    #[serde(default, deserialize_with = "Locale::non_blank", skip_serializing_if = "Option::is_none")]
    pub locale: Option<Locale>,
}

/// A person or team that joins as host. Exactly one of `email`, `personId` and `roomId` is required; blank values count as absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    {"required": ["email"], "properties": {"email": {"type": "string", "minLength": 1}}},
    {"required": ["personId"], "properties": {"personId": {"type": "string", "pattern": "^[!-~]+$"}}},
    {"required": ["roomId"], "properties": {"roomId": {"type": "string", "pattern": "^[!-~]+$"}}},
]))]
pub struct Expert {
    /// The e-mail address of the expert's Webex account.
    #[serde(default, deserialize_with = "Email::non_blank", skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,
    /// The expert's Webex person id.
    #[serde(default, deserialize_with = "non_blank_id", skip_serializing_if = "Option::is_none")]
    pub person_id: Option<Private<String>>,
    /// The id of a Webex space, for a team of experts.
    #[serde(default, deserialize_with = "non_blank_id", skip_serializing_if = "Option::is_none")]
    pub room_id: Option<Private<String>>,
    /// The expert's name.
    #[serde(default, deserialize_with = "Name::non_blank", skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
}

/// Destination of a host link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpertDestination<'a> {
    /// A person, by e-mail address.
    Email(&'a Email),
    /// A person, by Webex id.
    Person(&'a str),
    /// A space, by Webex id.
    Room(&'a str),
}

impl Expert {
    /// Returns the destination of this expert's link.
    ///
    /// # Errors
    /// [`Invalid`] unless exactly one of the three is set, and an id has only visible ASCII characters.
    pub fn address(&self) -> Result<ExpertDestination<'_>, Invalid> {
        let destination = match (&self.email, &self.person_id, &self.room_id) {
            (Some(email), None, None) => return Ok(ExpertDestination::Email(email)),
            (None, Some(person), None) => ("personId", ExpertDestination::Person(person.reveal())),
            (None, None, Some(room)) => ("roomId", ExpertDestination::Room(room.reveal())),
            _ => return Err(Invalid::new("", "expected exactly one of email, personId, roomId")),
        };
        match destination {
            (_, ExpertDestination::Person(id) | ExpertDestination::Room(id))
                if id.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                Ok(destination.1)
            }
            (field, _) => {
                Err(Invalid::new(field, "expected a Webex id: visible ASCII characters without spaces"))
            }
        }
    }

    /// The same expert with the e-mail address in lower case.
    pub(super) fn with_lowercase_email(&self) -> Self {
        Self { email: self.email.as_ref().map(Email::lowercase), ..self.clone() }
    }
}

/// Removes duplicate guests (same channel, number and name). The first of them stays.
pub(super) fn unique_guests(mut guests: Vec<Guest>) -> Vec<Guest> {
    let mut seen = HashSet::new();
    guests.retain(|guest| seen.insert((guest.channel, guest.address.clone(), guest.name.clone())));
    guests
}

/// Removes duplicate experts (same destination and name). The first of them stays. The letter case of e-mail addresses is ignored.
pub(super) fn unique_experts(mut experts: Vec<Expert>) -> Vec<Expert> {
    let mut seen = HashSet::new();
    experts.retain(|expert| {
        let email = expert.email.as_ref().map(Email::lowercase);
        seen.insert((email, expert.person_id.clone(), expert.room_id.clone(), expert.name.clone()))
    });
    experts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(name: &str, locale: &str) -> Result<Guest, String> {
        let json = serde_json::json!(
            {"channel": "sms", "address": "+34600111222", "name": name, "locale": locale});
        serde_json::from_value(json).map_err(|error| error.to_string())
    }

    #[test]
    fn name_drops_controls_and_blank_name_is_absent() {
        for (given, read) in [
            ("Ana\0 Garc\u{ed}a\r\n", Some("Ana Garc\u{ed}a")),
            ("\nAna\r\nGarc\u{ed}a\u{2028}Ruiz", Some("Ana Garc\u{ed}a Ruiz")),
            ("\u{202e}anA\u{202c}", Some("anA")),
            ("\u{2066}Ana\u{2069}\u{2028}\u{85}", Some("Ana")),
            ("\u{5d0}\u{200f}\u{5d1}\u{200d}", Some("\u{5d0}\u{200f}\u{5d1}\u{200d}")),
            ("", None),
            (" \t\u{a0}", None),
            ("\u{200b}\u{feff}\u{202e}", None),
        ] {
            let name = guest(given, "es").unwrap().name;
            assert_eq!(name.as_ref().map(Name::reveal), read, "{given:?}");
            let json = serde_json::json!({"email": "a@b.co", "name": given});
            assert_eq!(serde_json::from_value::<Expert>(json).unwrap().name, name);
        }
        assert_eq!(format!("{:?}", guest("Ana", "es").unwrap().name), "Some(Name([private]))");
    }

    #[test]
    fn locale_must_be_a_language_tag_and_blank_is_absent() {
        for (given, read) in [
            ("es", Some("es")),
            ("pt-BR", Some("pt-BR")),
            ("en_US", Some("en-US")),
            ("zh_Hant_TW", Some("zh-Hant-TW")),
            ("de-DE-u-co-phonebk", Some("de-DE-u-co-phonebk")),
            ("", None),
            (" \n", None),
        ] {
            assert_eq!(guest("Ana", given).unwrap().locale.as_ref().map(Locale::as_str), read, "{given:?}");
        }
        let long = format!("en{}", "-abcdefgh".repeat(8));
        for wrong in
            ["e", "en_US.UTF-8", "English (US)", "es\n", "en--US", "-", "espa\u{f1}ol", long.as_str()]
        {
            assert!(guest("Ana", wrong).unwrap_err().contains("BCP 47"), "{wrong:?}");
        }
    }

    #[test]
    fn expert_needs_one_destination_and_blank_is_absent() {
        let destination = |json: serde_json::Value| {
            let expert: Expert = serde_json::from_value(json).map_err(|error| error.to_string())?;
            expert.address().map(drop).map_err(|invalid| invalid.to_string())
        };
        for good in [
            serde_json::json!({"email": "a@b.co", "personId": "", "roomId": " "}),
            serde_json::json!({"email": "", "personId": "Y2lz_-=/"}),
            serde_json::json!({"roomId": "Y2lz", "name": "Team"}),
        ] {
            assert_eq!(destination(good), Ok(()));
        }
        for (wrong, reason) in [
            (serde_json::json!({}), "expected exactly one of"),
            (serde_json::json!({"email": "", "roomId": "\n"}), "expected exactly one of"),
            (serde_json::json!({"email": "a@b.co", "personId": "Y2lz"}), "expected exactly one of"),
            (serde_json::json!({"personId": "Y2\nlz"}), "`personId`: expected a Webex id"),
            (serde_json::json!({"roomId": "Y2lz "}), "`roomId`: expected a Webex id"),
            (serde_json::json!({"roomId": "\u{e9}"}), "`roomId`: expected a Webex id"),
        ] {
            let error = destination(wrong).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn duplicate_people_are_removed_and_others_are_kept() {
        let guests = |json: serde_json::Value| unique_guests(serde_json::from_value(json).unwrap()).len();
        let (sms, number) = ("sms", "+34600111222");
        assert_eq!(
            guests(serde_json::json!([
                {"channel": sms, "address": number, "name": "Ana"},
                {"channel": sms, "address": number, "name": "A\u{0}na", "locale": "es"},
                {"channel": sms, "address": number, "name": "Luis"},
                {"channel": "whatsapp", "address": number, "name": "Ana"},
                {"channel": sms, "address": number},
                {"channel": sms, "address": number, "name": " "},
            ])),
            4
        );
        let experts = serde_json::json!([
            {"email": "Lee@Example.com"}, {"email": "lee@example.COM", "name": ""}, {"personId": "A"}, {"personId": "a"},
            {"roomId": "A"}, {"roomId": "A"}, {"roomId": "A", "name": "Team"},
        ]);
        let experts = unique_experts(serde_json::from_value(experts).unwrap());
        assert_eq!(experts.len(), 5);
        assert_eq!(experts[0].email.as_ref().unwrap().reveal(), "Lee@Example.com");
    }

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
