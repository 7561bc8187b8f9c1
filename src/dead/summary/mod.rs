//! The output of `list` and `show`, with personal data masked unless it is to be revealed.
//!
//! - `private`: people and bodies

mod private;

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use self::private::{masked, people};
use super::{DeadError, DeadLetter, DeadQueue, Filter, Progress, replay::class};
use crate::contract::private::loggable_id;

/// The age groups of letters: up to an hour, a day, a week, or older.
pub(crate) const AGES: [&str; 4] = ["1h", "1d", "7d", "older"];

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
        shown["body"] = letter.json().map_or(Value::Null, |body| masked(&body));
    }
    shown
}
