//! What `dead` prints for people.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    cli::{CommandError, say},
    contract::stage::QueueDef,
    dead::{
        replay::ReplayReport,
        summary::{DeadQueueSummary, LetterRow},
    },
};

pub(super) fn hint(yes: bool) -> Result<(), CommandError> {
    if yes { Ok(()) } else { say("dry run: nothing was changed; pass --yes to make the changes") }
}

pub(super) fn report_json(queue: &'static QueueDef, report: &ReplayReport) -> Value {
    json!({
        "queue": queue.name, "replayed": report.total(), "classes": report.replayed, "expired": report.expired,
        "diedMeanwhile": report.newer, "others": report.others, "resumed": report.resumed,
    })
}

pub(super) fn report_text(queue: &'static QueueDef, report: &ReplayReport, yes: bool) -> String {
    let classes: Vec<_> = report.replayed.iter().map(|(class, count)| format!("{count} {class}")).collect();
    let what = if yes { "replayed" } else { "would be replayed" };
    let mut parts = vec![format!("{}: {} {what}", queue.name, report.total())];
    if !classes.is_empty() {
        parts.push(format!("({})", classes.join(", ")));
    }
    for (count, text) in [
        (report.resumed, "of them started by an interrupted replay"),
        (report.expired, "skipped because their sessions have ended"),
        (report.newer, "skipped because they were dead-lettered after this command started"),
        (report.others, "skipped by the filter or unreadable"),
    ] {
        if count > 0 {
            parts.push(format!("· {count} {text}"));
        }
    }
    parts.join(" ")
}

pub(super) fn print_summary(summary: &DeadQueueSummary) -> Result<(), CommandError> {
    say(&format!("{}: {} dead letters", summary.queue, summary.letters))?;
    if summary.interrupted > 0 {
        say(&format!(
            "  {} more are left from an interrupted replay; finish it with `dead replay --queue {} --yes`",
            summary.interrupted, summary.queue
        ))?;
    }
    if summary.classes.is_empty() {
        return Ok(());
    }
    say(&format!("  {:<20} {:>9} {:>9} {:>9} {:>9}", "class", "under 1h", "under 1d", "under 7d", "older"))?;
    for (class, counts) in &summary.classes {
        let [hour, day, week, older] = counts;
        say(&format!("  {class:<20} {hour:>9} {day:>9} {week:>9} {older:>9}"))?;
    }
    summary.rows.iter().try_for_each(|row| say(&row_text(row)))
}

fn row_text(row: &LetterRow) -> String {
    let age = row.died_at.map_or_else(|| "?".to_owned(), |died| ago(Timestamp::now().duration_since(died)));
    let replays = if row.replays == 0 { String::new() } else { format!(", replayed {} times", row.replays) };
    format!(
        "  {} ago  {}  {}  session {}  attempts {}{replays}  [{}]  {}",
        age,
        row.event,
        row.class,
        row.session.as_deref().unwrap_or("?"),
        row.attempts,
        row.people.join(", "),
        row.reason,
    )
}

/// `age` in the largest unit with at least two of it.
fn ago(age: SignedDuration) -> String {
    let seconds = age.as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

pub(super) fn print_letter(letter: &Value) -> Result<(), CommandError> {
    for (name, value) in letter.as_object().into_iter().flatten() {
        match value {
            Value::String(text) => say(&format!("{name}: {text}"))?,
            Value::Object(_) => {
                let text = serde_json::to_string_pretty(value).unwrap_or_default();
                say(&format!("{name}: {text}"))?;
            }
            value => say(&format!("{name}: {value}"))?,
        }
    }
    say("")
}
