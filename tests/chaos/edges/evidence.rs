//! Why a message was sent again, from the logs of the workers.
//!
//! A worker sends a message again only if it cannot know that the call before succeeded: the answer said nothing, or the worker ended, or
//! lost its ledger, between the call and the record. Before that it looks for a receipt.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use testkit::output::Output;

use super::record::{EdgeRecords, Repeat};
use crate::chaos::{
    event::Start,
    history::{EXAMPLES, History},
};

/// Maximum number of messages that all stages of one worker have in progress: `amqp.concurrency` on two channels.
const IN_PROGRESS: u64 = 2 * 32;

/// The evaluation of the messages that were sent again.
#[derive(Default)]
pub(in crate::chaos) struct Evidence {
    /// The answer of the call before said nothing.
    answer_cut: u64,
    /// The worker did not record the call before.
    unrecorded: u64,
    /// Messages that were not sent again because of a receipt.
    kept_back: u64,
    /// Accepted requests that an ingress could not record.
    requests_unrecorded: usize,
    failures: Vec<String>,
}

/// A log line about a message.
struct Line {
    /// The number of the worker's log.
    worker: usize,
    at: Timestamp,
    message: String,
    connect_id: String,
    /// Processing time of the delivery; only lines about its end have it.
    took: Option<SignedDuration>,
}

/// The lines about each message, by event id and stage.
type Lines = HashMap<(String, String), Vec<Line>>;

impl Evidence {
    /// Evaluates `history` by the `logs` of the workers.
    pub(in crate::chaos) fn of(history: &History, logs: &[Arc<Output>]) -> Self {
        let inner = history.inner();
        let edges = &inner.edges;
        let mut evidence = Self::default();
        let repeated: HashSet<_> = edges.repeats.iter().filter_map(|repeat| key(edges, repeat)).collect();
        let lines = evidence.read(logs, &repeated);
        for repeat in &edges.repeats {
            let of_message = key(edges, repeat).and_then(|key| lines.get(&key));
            evidence.weigh(edges, repeat, of_message.map_or(&[], Vec::as_slice));
        }
        evidence
    }

    /// Reads the lines about the messages `repeated`.
    fn read(&mut self, logs: &[Arc<Output>], repeated: &HashSet<(String, String)>) -> Lines {
        let mut lines = Lines::new();
        for (worker, log) in logs.iter().enumerate() {
            log.for_each(|text| {
                self.kept_back += u64::from(text.contains("not sending a guest link again: a receipt shows"));
                self.requests_unrecorded +=
                    usize::from(text.contains("could not record an accepted request"));
                if !text.contains(r#""stage":"sms""#) && !text.contains(r#""stage":"whatsapp""#) {
                    return;
                }
                let Ok(record) = serde_json::from_str::<Value>(text) else { return };
                let field = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
                let key = (field("event_id"), field("stage"));
                if repeated.contains(&key) {
                    lines.entry(key).or_default().push(Line {
                        worker,
                        at: field("timestamp").parse().unwrap(),
                        message: field("message"),
                        connect_id: field("connect_id"),
                        took: record["duration_ms"]
                            .as_f64()
                            .map(|ms| SignedDuration::from_secs_f64(ms / 1e3)),
                    });
                }
            });
        }
        lines
    }

    fn weigh(&mut self, edges: &EdgeRecords, repeat: &Repeat, lines: &[Line]) {
        if repeat.before.cut {
            self.answer_cut += 1;
        } else if is_recorded(repeat, lines) {
            self.fail(repeat, "although the call before was recorded");
        } else {
            self.unrecorded += 1;
        }
        let looked = lines.iter().rev().find(|line| {
            line.message.starts_with("sending a guest link again")
                && line.at <= repeat.at
                && line.at >= repeat.before.at
        });
        let Some(looked) = looked else { return self.fail(repeat, "without a look for its receipt") };
        // The begin of the delivery that looked, or an earlier time if two deliveries of the message were in progress.
        let ends = lines.iter().filter(|line| line.worker == looked.worker && line.at >= looked.at);
        let begun = ends.filter_map(|line| line.at.checked_sub(line.took?).ok()).min();
        let received = edges.received.get(&repeat.guest);
        if let (Some(begun), Some(received)) = (begun, received)
            && *received < begun
        {
            self.fail(repeat, "although its receipt was there");
        }
    }

    fn fail(&mut self, repeat: &Repeat, why: &str) {
        let (event, guest) = repeat.guest;
        self.failures.push(format!("{}, guest {guest}: sent again {why}", Start(event).id()));
    }

    /// Adds the evaluation to a report with `failures`. `kills` is the number of workers that ended at once.
    pub(in crate::chaos) fn report(
        &self,
        edges: &EdgeRecords,
        kills: u64,
        json: &mut Map<String, Value>,
        failures: &mut Vec<String>,
    ) {
        let bound = edges.answers_cut + kills * IN_PROGRESS;
        json.insert(
            "edges".to_owned(),
            json!({
                "refused": edges.refused, "replayed": edges.replayed, "newAgain": edges.new_again,
                "guestMessages": edges.sends, "answersCut": edges.answers_cut,
                "guestMessagesRepeated": {
                    "answerCut": self.answer_cut, "unrecorded": self.unrecorded,
                    "unexplained": self.failures.len(), "bound": bound,
                },
                "keptBackByReceipt": self.kept_back, "deadMaybeSent": edges.dead_maybe_sent,
                "receipts": edges.receipts(), "receiptsDropped": edges.receipts_dropped,
                "receiptsLost": edges.receipts_missing(),
            }),
        );
        if !self.failures.is_empty() {
            let examples = &self.failures[..self.failures.len().min(EXAMPLES)];
            failures.push(format!("{} messages: {examples:#?}", self.failures.len()));
        }
        if self.answer_cut + self.unrecorded > bound {
            failures.push(format!("{} messages repeated, more than {bound}", edges.repeats.len()));
        }
        if edges.receipts_missing() > 0 {
            failures.push(format!("{} receipts confirmed and not published", edges.receipts_missing()));
        }
        if edges.new_again > self.requests_unrecorded {
            failures.push(format!(
                "{} events accepted twice as new, but only {} requests could not be recorded",
                edges.new_again, self.requests_unrecorded
            ));
        }
    }
}

/// Event id and stage of the message.
fn key(edges: &EdgeRecords, repeat: &Repeat) -> Option<(String, String)> {
    let (event, guest) = repeat.guest;
    Some((edges.event_ids.get(&event)?.to_string(), Start::channel(guest).to_owned()))
}

/// True if the worker that made the call before ended its delivery with a record in the ledger.
fn is_recorded(repeat: &Repeat, lines: &[Line]) -> bool {
    let Some(sent) = lines.iter().position(|line| line.connect_id == repeat.before.connect_id) else {
        return false;
    };
    let after =
        || lines[sent..].iter().filter(|line| line.worker == lines[sent].worker && line.at <= repeat.at);
    after().any(|line| line.message == "done")
        && !after().any(|line| line.message.starts_with("could not record a sent guest link"))
}
