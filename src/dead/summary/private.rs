//! The people and the body of a letter, masked.

use serde_json::{Map, Value, json};

use crate::{
    contract::{
        decode::{self, BY_PUBLISHER},
        private::loggable_id,
        stage::MessageKind,
        time::WireTime,
    },
    dead::DeadLetter,
};

/// Maximum people in a row.
const PEOPLE_MAX: usize = 4;

/// The people named in the letter, masked unless `reveal`.
pub(super) fn people(letter: &DeadLetter, reveal: bool) -> Vec<String> {
    let Some(body) = letter.json() else { return Vec::new() };
    let list = |name: &str| body.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut people: Vec<String> = match letter.work.messages {
        MessageKind::StartEvent => {
            let guests = list("guests").iter().map(|guest| self::guest(guest, "address", reveal));
            guests.chain(list("experts").iter().map(|expert| self::expert(expert, reveal))).collect()
        }
        MessageKind::GuestLink => vec![guest(&body, "to", reveal)],
        MessageKind::HostLink => {
            body.get("expert").map(|expert| self::expert(expert, reveal)).into_iter().collect()
        }
    };
    let more = people.len().saturating_sub(PEOPLE_MAX);
    if more > 0 {
        people.truncate(PEOPLE_MAX);
        people.push(format!("and {more} more"));
    }
    people
}

fn guest(guest: &Value, address: &str, reveal: bool) -> String {
    let channel = match text(guest, "channel") {
        channel @ ("sms" | "whatsapp") => channel,
        _ => "guest",
    };
    let number = text(guest, address);
    if reveal {
        return named(format!("{channel} {number}"), guest);
    }
    // Two digits are enough to distinguish the people of one event.
    let digits = number.len() >= 7 && number.bytes().rev().take(2).all(|b| b.is_ascii_digit());
    let end = if digits { &number[number.len() - 2..] } else { "" };
    format!("{channel} …{end}")
}

fn expert(expert: &Value, reveal: bool) -> String {
    let kind = ["email", "personId", "roomId"].into_iter().find(|name| expert.get(name).is_some());
    match (kind, reveal) {
        (Some(kind), true) => named(format!("expert {}", text(expert, kind)), expert),
        (Some("email"), false) => {
            let first: String =
                text(expert, "email").chars().filter(char::is_ascii_alphanumeric).take(1).collect();
            format!("expert {first}…")
        }
        (Some("roomId"), false) => "expert (a space)".to_owned(),
        _ => "expert …".to_owned(),
    }
}

fn named(label: String, person: &Value) -> String {
    match text(person, "name") {
        "" => label,
        name => format!("{label} ({name})"),
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Masks `body`: keeps its structure and replaces private texts by their length.
pub(super) fn masked(body: &Value) -> Value {
    masked_field("", body)
}

/// As [`masked`], for `value` in the field `name` of an object.
fn masked_field(name: &str, value: &Value) -> Value {
    match value {
        Value::Null | Value::Bool(_) => value.clone(),
        Value::Number(_) => json!("…"),
        Value::String(text) => {
            let public = match name {
                "sessionId" | "eventId" => return json!(loggable_id(text)),
                "channel" => ["sms", "whatsapp"].contains(&text.as_str()),
                "vertical" => ["hc", "gen"].contains(&text.as_str()),
                "notBefore" | "expiresAt" => WireTime::try_from(text.clone()).is_ok(),
                _ => false,
            };
            if public { value.clone() } else { json!(format!("… ({} characters)", text.chars().count())) }
        }
        Value::Array(items) => items.iter().map(|item| masked_field(name, item)).collect(),
        Value::Object(fields) => {
            let shown = fields.iter().enumerate().map(|(n, (key, value))| {
                let known = decode::is_ours(name, key);
                // All names below a name that a publisher chose are the publisher's, too.
                let value = masked_field(if known { key } else { BY_PUBLISHER }, value);
                (if known { key.clone() } else { format!("field {}", n + 1) }, value)
            });
            Value::Object(shown.collect::<Map<_, _>>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_values_are_masked_and_structure_is_kept() {
        let body = json!({
            "sessionId": "tel:34600111222", "hostLogin": false, "expiresAt": "2026-11-21T10:00:00Z",
            "guests": [{"channel": "sms", "address": "+34600111222", "name": "Ana"}, {"channel": "Ana", "address": 34_600_111_222_u64}],
            "attributes": {"Ana": "Ana", "name": "Ana"}, "Ana": ["Ana", {"34600111222": null, "email": null}], "notBefore": "Ana",
        });
        let shown = masked(&body);
        let text = shown.to_string();
        for private in ["Ana", "346001"] {
            assert!(!text.contains(private), "{text}");
        }
        assert_eq!(
            shown["guests"][0],
            json!({"channel": "sms", "address": "… (12 characters)", "name": "… (3 characters)"})
        );
        assert_eq!(
            (&shown["hostLogin"], &shown["expiresAt"]),
            (&json!(false), &json!("2026-11-21T10:00:00Z"))
        );
        assert_eq!(shown["attributes"].as_object().unwrap().len(), 2);
        assert!(!text.contains("email"), "{text}");
    }

    #[test]
    fn people_are_masked_to_a_hint() {
        assert_eq!(guest(&json!({"channel": "sms", "address": "+34600111222"}), "address", false), "sms …22");
        assert_eq!(guest(&json!({"channel": "Ana", "address": "Ana García é"}), "address", false), "guest …");
        assert_eq!(expert(&json!({"email": "lee@example.com", "name": "Lee"}), false), "expert l…");
        assert_eq!(
            expert(&json!({"email": "lee@example.com", "name": "Lee"}), true),
            "expert lee@example.com (Lee)"
        );
    }
}
