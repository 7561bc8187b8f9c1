//! Webex ids, derived from their objects, so that they are the same in every sandbox.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use uuid::Uuid;

use crate::api::ApiError;

/// The id of a person by email address, ignoring case.
pub(super) fn person(email: &str) -> String {
    encode("PEOPLE", derived("person", &email.to_lowercase()))
}

/// The id of the 1:1 room of the bot and a person.
pub(super) fn direct_room(person_id: &str) -> String {
    encode("ROOM", derived("room", person_id))
}

pub(super) fn organisation() -> String {
    encode("ORGANIZATION", derived("organisation", "sandbox"))
}

pub(super) fn new_message() -> String {
    encode("MESSAGE", Uuid::new_v4())
}

/// Refuses ids without the form of a Webex id; the real service returns 404 for these too.
pub(super) fn check(kind: &str, id: &str) -> Result<(), ApiError> {
    let text = URL_SAFE_NO_PAD.decode(id.trim_end_matches('=')).ok();
    let text = text.and_then(|bytes| String::from_utf8(bytes).ok());
    let fits = text.is_some_and(|text| {
        let parts: Vec<&str> = text.split('/').collect();
        matches!(parts[..], ["ciscospark:", "", region, given, key] if !region.is_empty() && given == kind && !key.is_empty())
    });
    if fits || Uuid::try_parse(id).is_ok() {
        return Ok(());
    }
    Err(ApiError::not_found().describe(format!("expected a {kind} id: ciscospark://us/{kind}/… in base64")))
}

fn derived(what: &str, of: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("ciscospark://sandbox/{what}/{of}").as_bytes())
}

fn encode(kind: &str, uuid: Uuid) -> String {
    STANDARD_NO_PAD.encode(format!("ciscospark://us/{kind}/{uuid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_of_the_right_kind_are_accepted() {
        assert!(check("PEOPLE", &person("a@example.com")).is_ok());
        assert!(check("ROOM", &direct_room(&person("a@example.com"))).is_ok());
        assert!(check("ROOM", &person("a@example.com")).is_err());
        assert!(check("ROOM", "room-1").is_err());
    }

    #[test]
    fn email_address_is_the_same_person_in_any_case() {
        assert_eq!(person("Expert@Example.com"), person("expert@example.com"));
    }
}
