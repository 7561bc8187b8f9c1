//! Arguments of `dead`.

use std::time::Duration;

use jiff::SignedDuration;

use crate::{
    config::Config,
    contract::{
        private::has_phone_number,
        stage::{QueueDef, queues},
    },
    dead::{Filter, work_queue, work_queues},
    outcome::Class,
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    pub(super) command: DeadCommand,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum DeadCommand {
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
pub(super) struct QueueArgs {
    #[arg(long = "queue", value_name = "QUEUE", value_parser = work_queue, help = queue_help())]
    pub(super) queues: Vec<&'static QueueDef>,
}

#[derive(Debug, clap::Args)]
pub(super) struct LetterArgs {
    #[command(flatten)]
    pub(super) queues: QueueArgs,
    /// Only letters of this class; repeatable
    #[arg(long = "class", value_name = "CLASS")]
    pub(super) classes: Vec<Class>,
    /// Only letters of this session
    #[arg(long, value_name = "ID")]
    pub(super) session: Option<String>,
    /// Only letters of this event
    #[arg(long, value_name = "ID")]
    pub(super) event: Option<String>,
    /// Only letters that were dead-lettered longer ago than this, such as 30m or 2h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) older_than: Option<Duration>,
    /// Only letters that were dead-lettered within this time, such as 30m or 2h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) newer_than: Option<Duration>,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Output {
    /// Show people, links and ids unmasked
    #[arg(long)]
    pub(super) reveal: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

fn queue_help() -> String {
    let names: Vec<_> = work_queues().map(|queue| queue.name).collect();
    format!("Only letters of this queue: {}; repeatable", names.join(", "))
}

impl QueueArgs {
    /// The queues to look at: those of the worker with these settings, if none is given.
    pub(super) fn chosen(&self, config: &Config) -> Vec<&'static QueueDef> {
        if self.queues.is_empty() {
            return queues(config.guests.delivery.stages()).collect();
        }
        work_queues().filter(|queue| self.queues.contains(queue)).collect()
    }
}

impl LetterArgs {
    pub(super) fn filter(&self) -> Filter {
        Filter {
            classes: self.classes.clone(),
            session: self.session.clone(),
            event: self.event.clone(),
            older_than: self.older_than,
            newer_than: self.newer_than,
        }
    }
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
