//! The experts that may get a host link.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::{Email, Expert, ExpertDestination};

/// Beginning of an entry that allows all addresses of a domain.
const EVERYBODY_AT: &str = "*@";

/// The experts that may get a host link (`hosts.allowed`). An empty list allows all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct AllowedExperts(Vec<ExpertPattern>);

/// One entry of [`AllowedExperts`], in lower case except for an id.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
enum ExpertPattern {
    /// All addresses of this domain, not of the domains below it.
    Domain(String),
    /// One address.
    Address(String),
    /// The Webex id of one person or space.
    Id(String),
}

impl AllowedExperts {
    /// True if every expert is allowed.
    #[must_use]
    pub const fn allow_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Name of the field of `expert` whose value is not allowed; `None` if the expert is allowed or does not have exactly one
    /// destination.
    #[must_use]
    pub fn refused_field(&self, expert: &Expert) -> Option<&'static str> {
        let destination = expert.address().ok()?;
        if self.allow_all() || self.0.iter().any(|pattern| pattern.allows(&destination)) {
            return None;
        }
        Some(match destination {
            ExpertDestination::Email(_) => "email",
            ExpertDestination::Person(_) => "personId",
            ExpertDestination::Room(_) => "roomId",
        })
    }
}

impl ExpertPattern {
    fn read(text: &str) -> Option<Self> {
        let is_address = |text: &str| !text.contains('*') && Email::try_from(text.to_owned()).is_ok();
        if let Some(domain) = text.strip_prefix(EVERYBODY_AT) {
            return is_address(&format!("a@{domain}")).then(|| Self::Domain(domain.to_lowercase()));
        }
        if text.contains('@') {
            return is_address(text).then(|| Self::Address(text.to_lowercase()));
        }
        let is_id = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'*');
        is_id.then(|| Self::Id(text.to_owned()))
    }

    fn allows(&self, destination: &ExpertDestination<'_>) -> bool {
        match (self, destination) {
            (Self::Domain(domain), ExpertDestination::Email(email)) => {
                email.reveal().rsplit_once('@').is_some_and(|(_, host)| host.to_lowercase() == *domain)
            }
            (Self::Address(address), ExpertDestination::Email(email)) => {
                email.reveal().to_lowercase() == *address
            }
            (Self::Id(id), ExpertDestination::Person(given) | ExpertDestination::Room(given)) => id == given,
            _ => false,
        }
    }
}

impl TryFrom<String> for ExpertPattern {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::read(&text).ok_or(
            "expected an e-mail address, all addresses of a domain such as *@example.com, or a Webex id",
        )
    }
}

impl fmt::Debug for ExpertPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[private]")
    }
}

impl JsonSchema for AllowedExperts {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "AllowedExperts".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "array", "items": {"type": "string", "pattern": r"^((\*|[^*@\s]+)@[^*@\s]+|[^*@\s]+)$"}})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> Result<AllowedExperts, String> {
        serde_json::from_value(serde_json::json!(entries)).map_err(|error| error.to_string())
    }

    fn expert(field: &str, value: &str) -> Expert {
        serde_json::from_value(serde_json::json!({field: value})).unwrap()
    }

    #[test]
    fn empty_list_allows_every_expert() {
        for (field, value) in [("email", "lee@example.com"), ("personId", "p1"), ("roomId", "r1")] {
            assert_eq!(list(&[]).unwrap().refused_field(&expert(field, value)), None);
        }
    }

    #[test]
    fn expert_is_allowed_by_domain_address_or_id_only() {
        let allowed = list(&["*@Example.com", "Lee@clinic.example", "r1"]).unwrap();
        for (field, value) in [
            ("email", "ana@example.com"),
            ("email", "Ana@EXAMPLE.COM"),
            ("email", "lee@clinic.example"),
            ("email", "LEE@Clinic.Example"),
            ("roomId", "r1"),
            ("personId", "r1"),
        ] {
            assert_eq!(allowed.refused_field(&expert(field, value)), None, "{field} {value}");
        }
        for (field, value) in [
            ("email", "ana@sub.example.com"),
            ("email", "ana@notexample.com"),
            ("email", "ana@example.com.evil.example"),
            ("email", "\"ana@example.com\"@evil.example"),
            ("email", "ana@clinic.example"),
            ("roomId", "R1"),
            ("personId", "p1"),
            ("roomId", "*@example.com"),
        ] {
            assert_eq!(allowed.refused_field(&expert(field, value)), Some(field), "{field} {value}");
        }
    }

    #[test]
    fn entry_is_an_address_a_domain_or_an_id() {
        for wrong in [
            "",
            "*",
            "*@",
            "@example.com",
            "*@*.example.com",
            "a*@example.com",
            "a b",
            "*@a b",
            "*@localhost",
        ] {
            let error = list(&["*@example.com", wrong]).unwrap_err();
            assert!(error.starts_with("expected an e-mail address"), "{wrong}: {error}");
        }
    }

    #[test]
    fn entries_are_not_shown() {
        let allowed = list(&["lee@example.com"]).unwrap();
        assert!(!format!("{allowed:?}").contains("lee"));
    }
}
