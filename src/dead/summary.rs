//! The output of `list` and `show`, with personal data masked unless it is to be revealed.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{DeadError, DeadLetter, DeadQueue, Filter, Progress, replay::class};
use crate::contract::{
    decode::{self, BY_PUBLISHER},
    private::loggable_id,
    stage::MessageKind,
    time::WireTime,
};

/// The age groups of letters: up to an hour, a day, a week, or older.
pub(crate) const AGES: [&str; 4] = ["1h", "1d", "7d", "older"];
/// Maximum people in a row.
const PEOPLE_MAX: usize = 4;

/// The letters of one queue.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeadQueueSummary {
    /// The queue's name without prefix.
    pub queue: &'static str,
    /// Letters read.
    pub letters: u32,
    /// Copies left by an interrupted replay.
    pub interrupted: u32,
    /// Selected letters by class, one count for each of [`AGES`]. Letters without a death time count as older.
    pub classes: BTreeMap<&'static str, [u64; 4]>,
    /// The latest selected letters, newest first.
    pub rows: Vec<LetterRow>,
}

/// One letter in a line.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LetterRow {
    /// The letter's own id.
    pub id: String,
    /// The event's id.
    pub event: String,
    /// The session's id.
    pub session: Option<String>,
    /// The queue's name without prefix.
    pub queue: &'static str,
    /// Class of the dead letter.
    pub class: &'static str,
    /// Reason of the death, for a person.
    pub reason: String,
    /// Counted attempts.
    pub attempts: u32,
    /// Number of replays.
    pub replays: u32,
    /// Time of death.
    pub died_at: Option<Timestamp>,
    /// End of the session.
    pub ends_at: Option<Timestamp>,
    /// Guests and experts, masked or not.
    pub people: Vec<String>,
}

/// Output options for letters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// Show people, links and ids unmasked.
    pub reveal: bool,
    /// Maximum rows.
    pub limit: usize,
    /// `instant_connect.link_lifetime`.
    pub link_lifetime: Duration,
}

/// Counts the letters that `filter` selects and returns the latest of them; changes nothing.
///
/// # Errors
/// [`DeadError`].
pub(crate) async fn summarize(
    dead_queue: &DeadQueue<'_>,
    filter: &Filter,
    view: View,
    mut progress: impl FnMut(Progress),
) -> Result<DeadQueueSummary, DeadError> {
    let now = dead_queue.clock.now();
    let mut classes = BTreeMap::<_, [u64; 4]>::new();
    // Bounded by the limit, so memory does not grow with the queue.
    let mut latest = BTreeMap::new();
    let mut reader = dead_queue.read(dead_queue.letters).await?;
    while let Some(letter) = reader.next().await? {
        if filter.matches(&letter, now) {
            classes.entry(class(&letter)).or_default()[age(&letter, now)] += 1;
            latest.insert((letter.died_at, reader.seen), LetterRow::of(&letter, view));
            if latest.len() > view.limit {
                latest.pop_first();
            }
        }
        progress(Progress { seen: reader.seen, total: dead_queue.letters, done: 0 });
    }
    let letters = reader.seen;
    reader.close().await?;
    let rows = latest.into_values().rev().collect();
    Ok(DeadQueueSummary {
        queue: dead_queue.work.name,
        letters,
        interrupted: dead_queue.staged,
        classes,
        rows,
    })
}

/// Returns the letters that `filter` selects with all their contents, `view.limit` at most.
///
/// # Errors
/// [`DeadError`].
pub(crate) async fn show(
    dead_queue: &DeadQueue<'_>,
    filter: &Filter,
    view: View,
) -> Result<Vec<Value>, DeadError> {
    let now = dead_queue.clock.now();
    let mut found = Vec::new();
    let mut reader = dead_queue.read(dead_queue.letters).await?;
    while let Some(letter) = reader.next().await? {
        if found.len() < view.limit && filter.matches(&letter, now) {
            found.push(whole(&letter, view));
        }
    }
    reader.close().await?;
    Ok(found)
}

fn age(letter: &DeadLetter, now: Timestamp) -> usize {
    const HOUR: u64 = 3600;
    let age = letter.age(now).map_or(u64::MAX, |age| age.as_secs());
    [HOUR, 24 * HOUR, 7 * 24 * HOUR].iter().position(|limit| age < *limit).unwrap_or(3)
}

impl LetterRow {
    fn of(letter: &DeadLetter, view: View) -> Self {
        let id = |id: &str| if view.reveal { id.to_owned() } else { loggable_id(id).into_owned() };
        Self {
            id: letter.id.to_string(),
            event: id(&letter.event),
            session: letter.session.as_deref().map(id),
            queue: letter.work.name,
            class: class(letter),
            reason: letter.reason.clone(),
            attempts: letter.attempts,
            replays: letter.replays,
            died_at: letter.died_at,
            ends_at: letter.ends_at(view.link_lifetime),
            people: people(letter, view.reveal),
        }
    }
}

fn whole(letter: &DeadLetter, view: View) -> Value {
    let mut shown = serde_json::to_value(LetterRow::of(letter, view)).unwrap_or_default();
    let message = &letter.message;
    shown["bytes"] = json!(message.body.len());
    shown["looks"] = json!(letter.deliveries);
    shown["firstFailedAt"] = json!(message.first_failed_at());
    if view.reveal {
        shown["messageId"] = json!(message.message_id);
        shown["correlationId"] = json!(message.correlation_id);
        shown["contentType"] = json!(message.content_type);
        shown["headers"] = json!(message.headers);
        shown["body"] = match (letter.json(), std::str::from_utf8(&message.body)) {
            (Some(body), _) => body,
            (None, Ok(text)) => json!(text),
            (None, Err(_)) => json!({"base64": STANDARD.encode(&message.body)}),
        };
    } else {
        shown["messageId"] = json!(message.message_id.as_deref().map(loggable_id));
        shown["body"] = letter.json().map_or(Value::Null, |body| masked("", &body));
    }
    shown
}

/// The people named in the letter.
fn people(letter: &DeadLetter, reveal: bool) -> Vec<String> {
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

/// Masks `value`, the field `name` of an object: keeps its structure and replaces private texts by their length.
fn masked(name: &str, value: &Value) -> Value {
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
        Value::Array(items) => items.iter().map(|item| masked(name, item)).collect(),
        Value::Object(fields) => {
            let shown = fields.iter().enumerate().map(|(n, (key, value))| {
                let known = decode::is_ours(name, key);
                // All names below a name that a publisher chose are the publisher's, too.
                let value = masked(if known { key } else { BY_PUBLISHER }, value);
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
        let shown = masked("", &body);
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
