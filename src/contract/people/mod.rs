//! Guests and experts of a start event.

mod allowed_experts;
mod blank;
mod calling_code;
mod email;
mod locale;
mod name;
mod number_prefixes;
mod phone_number;
mod time_zone;

use std::{collections::HashSet, fmt};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::EnumString;

pub(super) use self::blank::is_blank;
use self::blank::{blanks, non_blank_id};
pub use self::{
    allowed_experts::AllowedExperts,
    email::Email,
    locale::Locale,
    name::{NAME_CHARS_MAX, Name},
    number_prefixes::NumberPrefixes,
    phone_number::PhoneNumber,
    time_zone::ZoneName,
};
use super::{decode::Invalid, private::Private};

/// Channel of the guest's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, EnumString)]
#[serde(rename_all = "lowercase", try_from = "String")]
#[schemars(inline, !try_from)]
#[strum(serialize_all = "lowercase")]
pub enum Channel {
    /// An SMS.
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
    /// Time zone of the times in the message, such as `Europe/Madrid`. Without it, `webex_connect.time_zone` counts.
    #[serde(
        rename = "timeZone",
        default,
        deserialize_with = "ZoneName::non_blank",
        skip_serializing_if = "Option::is_none"
    )]
    pub time_zone: Option<ZoneName>,
}

/// A person or team that joins as host. Exactly one of `email`, `personId` and `roomId` is required; blank values count as absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    {"required": ["email"], "properties": {"email": {"type": "string", "pattern": concat!("[^", blanks!(), "]")}}},
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

/// Expectation that an expert outside [`AllowedExperts`] does not meet.
pub const NOT_ALLOWED: &str = "expected an expert listed in hosts.allowed";

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
mod tests;
