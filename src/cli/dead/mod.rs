//! `dead`: lists, shows, replays and drops dead letters; see [`crate::dead`].

mod args;
mod text;

use std::time::Duration;

use serde_json::json;

pub(super) use self::args::Args;
use self::{
    args::{DeadCommand, LetterArgs, Output, QueueArgs},
    text::{hint, print_letter, print_summary, report_json, report_text},
};
use super::{CommandError, progress::Line, say, say_json};
use crate::{
    broker::{
        connection::{Connected, close},
        topology::Topology,
    },
    clock::Clock,
    config::Loaded,
    contract::stage::QueueDef,
    dead::{
        DeadError, DeadQueue, Filter,
        discard::discard,
        replay::{self, ReplayPlan},
        summary::{AGES, View, show, summarize},
    },
};

impl From<DeadError> for CommandError {
    fn from(error: DeadError) -> Self {
        Self::Failed(error.to_string())
    }
}

pub(super) async fn run(loaded: &Loaded, args: &Args) -> Result<(), CommandError> {
    let connector = loaded.config.connector().filtering_properties();
    let topology = loaded.config.topology_of_all_stages();
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
        for queue in which.queues.chosen(&self.loaded.config) {
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
        for queue in queues.chosen(&self.loaded.config) {
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
        for queue in which.queues.chosen(&self.loaded.config) {
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
        for queue in which.queues.chosen(&self.loaded.config) {
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
