//! `dead`: lists, shows, replays and drops dead letters; see [`crate::dead`].

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{CommandError, progress::Line, say, say_json};
use crate::{
    broker::{
        connection::{Connected, close},
        topology::Topology,
    },
    clock::Clock,
    config::Loaded,
    contract::{private::has_phone_number, stage::QueueDef},
    dead::{
        DeadError, DeadQueue, Filter,
        discard::discard,
        replay::{self, ReplayPlan, ReplayReport},
        summary::{AGES, DeadQueueSummary, LetterRow, View, show, summarize},
        work_queue, work_queues,
    },
    outcome::Class,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: DeadCommand,
}

#[derive(Debug, clap::Subcommand)]
enum DeadCommand {
    /// Count dead letters by class and age, and list the latest; read-only
    List {
        #[command(flatten)]
        which: LetterArgs,
        /// Maximum rows per queue
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(..=10_000))]
        limit: u16,
        #[command(flatten)]
        output: Output,
    },
    /// Show the contents of one event's dead letters; read-only
    Show {
        /// Id of the event or of the letter, as shown by `list`
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        queues: QueueArgs,
        #[command(flatten)]
        output: Output,
    },
    /// Move dead letters back to their original queue; a dry run unless --yes
    Replay {
        #[command(flatten)]
        which: LetterArgs,
        /// Make the changes
        #[arg(long)]
        yes: bool,
        /// Maximum letters per second
        #[arg(long, value_name = "N/s", value_parser = rate)]
        rate: Option<f64>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete dead letters permanently; a dry run unless --yes
    Drop {
        #[command(flatten)]
        which: LetterArgs,
        /// Make the changes
        #[arg(long)]
        yes: bool,
        /// Reason, written to the log; must not contain phone numbers, addresses or links
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct QueueArgs {
    /// Only letters of this queue: sessions, guests or hosts; repeatable
    #[arg(long = "queue", value_name = "QUEUE", value_parser = work_queue)]
    queues: Vec<&'static QueueDef>,
}

#[derive(Debug, clap::Args)]
struct LetterArgs {
    #[command(flatten)]
    queues: QueueArgs,
    /// Only letters of this class; repeatable
    #[arg(long = "class", value_name = "CLASS")]
    classes: Vec<Class>,
    /// Only letters of this session
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Only letters of this event
    #[arg(long, value_name = "ID")]
    event: Option<String>,
    /// Only letters that died longer ago than this, such as 30m or 2h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    older_than: Option<Duration>,
    /// Only letters that died within this time, such as 30m or 2h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    newer_than: Option<Duration>,
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct Output {
    /// Show people, links and ids unmasked
    #[arg(long)]
    reveal: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl From<DeadError> for CommandError {
    fn from(error: DeadError) -> Self {
        Self::Failed(error.to_string())
    }
}

pub(super) async fn run(loaded: &Loaded, args: &Args) -> Result<(), CommandError> {
    let connector = loaded.config.connector().filtering_properties();
    let topology = loaded.config.topology();
    // One connection for everything: when it closes, no message of this command is in flight any more.
    let connection = connector.connect_once("dead").await?;
    let tool = DeadTool { loaded, connection: &connection, topology: &topology };
    let done = match &args.command {
        DeadCommand::List { which, limit, output } => tool.list(which, *limit, *output).await,
        DeadCommand::Show { id, queues, output } => tool.show(id, queues, *output).await,
        DeadCommand::Replay { which, yes, rate, json } => tool.replay(which, *yes, *rate, *json).await,
        DeadCommand::Drop { which, yes, reason, json } => tool.drop(which, *yes, reason, *json).await,
    };
    close(&connection).await;
    done
}

struct DeadTool<'a> {
    loaded: &'a Loaded,
    connection: &'a Connected,
    topology: &'a Topology,
}

impl DeadTool<'_> {
    async fn open(&self, queue: &'static QueueDef) -> Result<DeadQueue<'_>, DeadError> {
        let limit = self.loaded.config.amqp.timeout.get();
        DeadQueue::open(self.connection, self.topology, queue, limit, Clock::system()).await
    }

    fn link_lifetime(&self) -> Duration {
        self.loaded.config.instant_connect.link_lifetime.get()
    }

    async fn list(&self, which: &LetterArgs, limit: u16, output: Output) -> Result<(), CommandError> {
        let view = View { reveal: output.reveal, limit: limit.into(), link_lifetime: self.link_lifetime() };
        let mut summaries = Vec::new();
        for queue in which.queues.chosen() {
            let dead_queue = self.open(queue).await?;
            let mut line = Line::new("checked", queue.name);
            summaries
                .push(summarize(&dead_queue, &which.filter(), view, |progress| line.update(progress)).await?);
            line.end();
        }
        if output.json {
            return say_json(&json!({"ages": AGES, "queues": summaries}));
        }
        summaries.iter().try_for_each(print_summary)
    }

    async fn show(&self, id: &str, queues: &QueueArgs, output: Output) -> Result<(), CommandError> {
        const MOST: usize = 100;
        let view = View { reveal: output.reveal, limit: MOST, link_lifetime: self.link_lifetime() };
        let filter = Filter { event: Some(id.to_owned()), ..Filter::default() };
        let mut letters = Vec::new();
        for queue in queues.chosen() {
            letters.extend(show(&self.open(queue).await?, &filter, view).await?);
        }
        if letters.is_empty() {
            return Err(CommandError::Failed("no dead letter has this id".to_owned()));
        }
        if output.json {
            return say_json(&letters);
        }
        letters.iter().try_for_each(print_letter)
    }

    async fn replay(
        &self,
        which: &LetterArgs,
        yes: bool,
        rate: Option<f64>,
        json: bool,
    ) -> Result<(), CommandError> {
        let plan = ReplayPlan { filter: which.filter(), link_lifetime: self.link_lifetime(), rate };
        let mut reports = Vec::new();
        for queue in which.queues.chosen() {
            let dead_queue = self.open(queue).await?;
            let mut line = Line::new(if yes { "replayed" } else { "checked" }, queue.name);
            let update = |progress| line.update(progress);
            let report = if yes {
                replay::run(&dead_queue, &plan, update).await?
            } else {
                replay::dry_run(&dead_queue, &plan, update).await?
            };
            line.end();
            reports.push((queue, report));
        }
        if json {
            let queues: Vec<_> = reports.iter().map(|(queue, report)| report_json(queue, report)).collect();
            return say_json(&json!({"dryRun": !yes, "queues": queues}));
        }
        for (queue, report) in &reports {
            say(&report_text(queue, report, yes))?;
        }
        hint(yes)
    }

    async fn drop(
        &self,
        which: &LetterArgs,
        yes: bool,
        reason: &str,
        json: bool,
    ) -> Result<(), CommandError> {
        let mut dropped = Vec::new();
        let view = View { reveal: false, limit: 0, link_lifetime: self.link_lifetime() };
        for queue in which.queues.chosen() {
            let dead_queue = self.open(queue).await?;
            let mut line = Line::new(if yes { "dropped" } else { "checked" }, queue.name);
            let update = |progress| line.update(progress);
            let count = if yes {
                discard(&dead_queue, &which.filter(), reason, update).await?
            } else {
                summarize(&dead_queue, &which.filter(), view, update).await?.classes.values().flatten().sum()
            };
            line.end();
            dropped.push((queue, count));
        }
        if json {
            let queues: Vec<_> =
                dropped.iter().map(|(queue, count)| json!({"queue": queue.name, "dropped": count})).collect();
            return say_json(&json!({"dryRun": !yes, "queues": queues}));
        }
        for (queue, count) in &dropped {
            say(&format!("{}: {count} {}", queue.name, if yes { "dropped" } else { "would be dropped" }))?;
        }
        hint(yes)
    }
}

impl QueueArgs {
    fn chosen(&self) -> Vec<&'static QueueDef> {
        if self.queues.is_empty() {
            return work_queues().collect();
        }
        work_queues().filter(|queue| self.queues.contains(queue)).collect()
    }
}

impl LetterArgs {
    fn filter(&self) -> Filter {
        Filter {
            classes: self.classes.clone(),
            session: self.session.clone(),
            event: self.event.clone(),
            older_than: self.older_than,
            newer_than: self.newer_than,
        }
    }
}

fn hint(yes: bool) -> Result<(), CommandError> {
    if yes { Ok(()) } else { say("dry run: nothing was changed; pass --yes to make the changes") }
}

fn report_json(queue: &'static QueueDef, report: &ReplayReport) -> Value {
    json!({
        "queue": queue.name, "replayed": report.total(), "classes": report.replayed, "expired": report.expired,
        "diedMeanwhile": report.newer, "others": report.others, "resumed": report.resumed,
    })
}

fn report_text(queue: &'static QueueDef, report: &ReplayReport, yes: bool) -> String {
    let classes: Vec<_> = report.replayed.iter().map(|(class, count)| format!("{count} {class}")).collect();
    let what = if yes { "replayed" } else { "would be replayed" };
    let mut parts = vec![format!("{}: {} {what}", queue.name, report.total())];
    if !classes.is_empty() {
        parts.push(format!("({})", classes.join(", ")));
    }
    for (count, text) in [
        (report.resumed, "of them started by an interrupted replay"),
        (report.expired, "skipped because their sessions have ended"),
        (report.newer, "skipped because they died after this command started"),
        (report.others, "skipped by the filter or unreadable"),
    ] {
        if count > 0 {
            parts.push(format!("· {count} {text}"));
        }
    }
    parts.join(" ")
}

fn print_summary(summary: &DeadQueueSummary) -> Result<(), CommandError> {
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

fn print_letter(letter: &Value) -> Result<(), CommandError> {
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

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<SignedDuration>().ok().and_then(|span| Duration::try_from(span).ok());
    parsed.ok_or_else(|| "expected a duration such as 30m or 2h".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).parse::<f64>().ok();
    number
        .filter(|rate| (0.01..=1e6).contains(rate))
        .ok_or_else(|| "expected letters per second, such as 50/s (0.01 to 1000000)".to_owned())
}

/// Refuses a reason that may identify people, because it is logged.
fn reason(text: &str) -> Result<String, String> {
    // A date has as many digits as a phone number.
    let is_date = |word: &str| {
        let word = word.trim_end_matches([',', '.', ';', ':', ')']).trim_start_matches('(');
        // Without the dashes it could be a number of eight digits.
        word.len() == 10 && word.as_bytes()[4] == b'-' && word.parse::<jiff::civil::Date>().is_ok()
    };
    let words: Vec<_> =
        text.split_whitespace().map(|word| if is_date(word) { "date" } else { word }).collect();
    let digits = has_phone_number(&words.join(" "));
    let valid =
        !text.trim().is_empty() && text.len() <= 500 && !text.contains(['@', '\n']) && !text.contains("://");
    if valid && !digits {
        Ok(text.to_owned())
    } else {
        Err("expected a reason in one line of at most 500 bytes, without phone numbers, addresses or links"
            .to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_may_name_a_date_but_no_number_address_or_link() {
        for good in ["outage of 2026-11-20, sessions over", "ticket INC-48151", "test events"] {
            assert_eq!(reason(good), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "caller +34 600 111 222 asked",
            "caller 600-111-222",
            "555 12 34",
            "caller 91231204 asked",
            "+20251130",
            "for ana@example.com",
            "https://instant.webex.com/visit/x",
        ] {
            assert!(reason(bad).is_err(), "{bad}");
        }
    }
}
