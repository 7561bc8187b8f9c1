//! `dead`: the letters that no stage could serve; see [`crate::dead`].

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Failure, progress::Line, say, say_json};
use crate::{
    broker::{
        connection::{Connector, close},
        topology::Topology,
    },
    config::Loaded,
    dead::{
        DeadError, Desk, Filter, Kind,
        discard::discard,
        replay::{self, Plan, Report},
        survey::{AGES, Row, Survey, View, show, survey},
    },
    outcome::Class,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Count dead letters by class and age, and list the latest; changes nothing
    List {
        #[command(flatten)]
        which: Which,
        /// Most rows of a queue
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(..=10_000))]
        limit: u16,
        #[command(flatten)]
        output: Output,
    },
    /// Show what one event's dead letters hold; changes nothing
    Show {
        /// The event's or the letter's id, as `list` shows it
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        queues: Queues,
        #[command(flatten)]
        output: Output,
    },
    /// Put dead letters back into the queue that they came from; a dry run unless --yes
    Replay {
        #[command(flatten)]
        which: Which,
        /// Do it
        #[arg(long)]
        yes: bool,
        /// Letters in a second, at most
        #[arg(long, value_name = "N/s", value_parser = rate)]
        rate: Option<f64>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete dead letters for good; a dry run unless --yes
    Drop {
        #[command(flatten)]
        which: Which,
        /// Do it
        #[arg(long)]
        yes: bool,
        /// Why; kept in the log, so without numbers, addresses or links
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Queues {
    /// Only of this queue: sessions, guests or hosts; may be given again
    #[arg(long = "queue", value_name = "QUEUE")]
    queues: Vec<Kind>,
}

#[derive(Debug, clap::Args)]
struct Which {
    #[command(flatten)]
    queues: Queues,
    /// Only of this class; may be given again
    #[arg(long = "class", value_name = "CLASS")]
    classes: Vec<Class>,
    /// Only of this session
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Only of this event
    #[arg(long, value_name = "ID")]
    event: Option<String>,
    /// Only those that died longer ago, such as 30m or 2h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    older_than: Option<Duration>,
    /// Only those that died since then
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    newer_than: Option<Duration>,
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct Output {
    /// Show people, links and ids as they are
    #[arg(long)]
    reveal: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl From<DeadError> for Failure {
    fn from(error: DeadError) -> Self {
        Self::Failed(error.to_string())
    }
}

pub(super) async fn run(loaded: &Loaded, args: &Args) -> Result<(), Failure> {
    let connector = Connector::new(&loaded.config).sieving();
    let topology = Topology::new(&loaded.config.topology, loaded.config.retry.delays.as_slice());
    // One connection for everything: when it ends, nothing of this program is under way any more.
    let connection = connector.connect_once("dead").await?;
    let office = Office { loaded, connection: &connection, topology: &topology };
    let done = match &args.command {
        Command::List { which, limit, output } => office.list(which, *limit, *output).await,
        Command::Show { id, queues, output } => office.show(id, queues, *output).await,
        Command::Replay { which, yes, rate, json } => office.replay(which, *yes, *rate, *json).await,
        Command::Drop { which, yes, reason, json } => office.drop(which, *yes, reason, *json).await,
    };
    close(&connection).await;
    done
}

struct Office<'a> {
    loaded: &'a Loaded,
    connection: &'a lapin::Connection,
    topology: &'a Topology,
}

impl Office<'_> {
    async fn open(&self, kind: Kind) -> Result<Desk<'_>, DeadError> {
        Desk::open(self.connection, self.topology, kind, self.loaded.config.amqp.timeout.get()).await
    }

    fn link_lifetime(&self) -> Duration {
        self.loaded.config.instant_connect.link_lifetime.get()
    }

    async fn list(&self, which: &Which, limit: u16, output: Output) -> Result<(), Failure> {
        let view = View { reveal: output.reveal, limit: limit.into(), link_lifetime: self.link_lifetime() };
        let mut surveys = Vec::new();
        for kind in which.queues.kinds() {
            let desk = self.open(kind).await?;
            let mut line = Line::new("looked at", kind.as_str());
            surveys.push(survey(&desk, &which.filter(), view, |progress| line.tell(progress)).await?);
            line.end();
        }
        if output.json {
            return say_json(&json!({"ages": AGES, "queues": surveys}));
        }
        surveys.iter().try_for_each(print_survey)
    }

    async fn show(&self, id: &str, queues: &Queues, output: Output) -> Result<(), Failure> {
        const MOST: usize = 100;
        let view = View { reveal: output.reveal, limit: MOST, link_lifetime: self.link_lifetime() };
        let filter = Filter { event: Some(id.to_owned()), ..Filter::default() };
        let mut letters = Vec::new();
        for kind in queues.kinds() {
            letters.extend(show(&self.open(kind).await?, &filter, view).await?);
        }
        if letters.is_empty() {
            return Err(Failure::Failed("no dead letter has this id".to_owned()));
        }
        if output.json {
            return say_json(&letters);
        }
        letters.iter().try_for_each(print_letter)
    }

    async fn replay(&self, which: &Which, yes: bool, rate: Option<f64>, json: bool) -> Result<(), Failure> {
        let plan = Plan { filter: which.filter(), link_lifetime: self.link_lifetime(), rate };
        let mut reports = Vec::new();
        for kind in which.queues.kinds() {
            let desk = self.open(kind).await?;
            let mut line = Line::new(if yes { "replayed" } else { "looked at" }, kind.as_str());
            let tell = |progress| line.tell(progress);
            let report = if yes {
                replay::run(&desk, &plan, tell).await?
            } else {
                replay::dry_run(&desk, &plan, tell).await?
            };
            line.end();
            reports.push((kind, report));
        }
        if json {
            let queues: Vec<_> = reports.iter().map(|(kind, report)| report_json(*kind, report)).collect();
            return say_json(&json!({"dryRun": !yes, "queues": queues}));
        }
        for (kind, report) in &reports {
            say(&report_text(*kind, report, yes))?;
        }
        hint(yes)
    }

    async fn drop(&self, which: &Which, yes: bool, reason: &str, json: bool) -> Result<(), Failure> {
        let mut dropped = Vec::new();
        let view = View { reveal: false, limit: 0, link_lifetime: self.link_lifetime() };
        for kind in which.queues.kinds() {
            let desk = self.open(kind).await?;
            let mut line = Line::new(if yes { "dropped" } else { "looked at" }, kind.as_str());
            let tell = |progress| line.tell(progress);
            let count = if yes {
                discard(&desk, &which.filter(), reason, tell).await?
            } else {
                survey(&desk, &which.filter(), view, tell).await?.classes.values().flatten().sum()
            };
            line.end();
            dropped.push((kind, count));
        }
        if json {
            let queues: Vec<_> = dropped
                .iter()
                .map(|(kind, count)| json!({"queue": kind.as_str(), "dropped": count}))
                .collect();
            return say_json(&json!({"dryRun": !yes, "queues": queues}));
        }
        for (kind, count) in &dropped {
            say(&format!("{}: {count} {}", kind.as_str(), if yes { "dropped" } else { "would be dropped" }))?;
        }
        hint(yes)
    }
}

impl Queues {
    fn kinds(&self) -> Vec<Kind> {
        if self.queues.is_empty() {
            return Kind::ALL.to_vec();
        }
        Kind::ALL.into_iter().filter(|kind| self.queues.contains(kind)).collect()
    }
}

impl Which {
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

fn hint(yes: bool) -> Result<(), Failure> {
    if yes { Ok(()) } else { say("a dry run: nothing was changed; --yes does it") }
}

fn report_json(kind: Kind, report: &Report) -> Value {
    json!({
        "queue": kind.as_str(), "replayed": report.total(), "classes": report.replayed, "expired": report.expired,
        "diedMeanwhile": report.newer, "others": report.others, "resumed": report.resumed,
    })
}

fn report_text(kind: Kind, report: &Report, yes: bool) -> String {
    let classes: Vec<_> = report.replayed.iter().map(|(class, count)| format!("{count} {class}")).collect();
    let what = if yes { "replayed" } else { "would be replayed" };
    let mut parts = vec![format!("{}: {} {what}", kind.as_str(), report.total())];
    if !classes.is_empty() {
        parts.push(format!("({})", classes.join(", ")));
    }
    for (count, text) in [
        (report.resumed, "of them begun by an interrupted replay"),
        (report.expired, "left, for their sessions are over"),
        (report.newer, "left, for they died meanwhile"),
        (report.others, "not meant"),
    ] {
        if count > 0 {
            parts.push(format!("· {count} {text}"));
        }
    }
    parts.join(" ")
}

fn print_survey(survey: &Survey) -> Result<(), Failure> {
    say(&format!("{}: {} dead letters", survey.queue, survey.letters))?;
    if survey.interrupted > 0 {
        say(&format!(
            "  {} more wait for an interrupted replay to be run again: `dead replay --queue {} --yes`",
            survey.interrupted, survey.queue
        ))?;
    }
    if survey.classes.is_empty() {
        return Ok(());
    }
    say(&format!("  {:<20} {:>9} {:>9} {:>9} {:>9}", "class", "under 1h", "under 1d", "under 7d", "older"))?;
    for (class, counts) in &survey.classes {
        let [hour, day, week, older] = counts;
        say(&format!("  {class:<20} {hour:>9} {day:>9} {week:>9} {older:>9}"))?;
    }
    survey.rows.iter().try_for_each(|row| say(&row_text(row)))
}

fn row_text(row: &Row) -> String {
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

/// The largest unit that says enough.
fn ago(age: SignedDuration) -> String {
    let seconds = age.as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn print_letter(letter: &Value) -> Result<(), Failure> {
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
        .ok_or_else(|| "expected letters in a second, such as 50/s (0.01 to 1000000)".to_owned())
}

/// What goes into a log must not name people.
fn reason(text: &str) -> Result<String, String> {
    let digits = text.split(|c: char| !c.is_ascii_digit()).any(|run| run.len() >= 7);
    let fine =
        !text.trim().is_empty() && text.len() <= 500 && !text.contains(['@', '\n']) && !text.contains("://");
    if fine && !digits {
        Ok(text.to_owned())
    } else {
        Err("expected why, in one line of at most 500 bytes without numbers of people, addresses or links"
            .to_owned())
    }
}
