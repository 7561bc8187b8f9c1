//! The steps of a replay: copies to the replay queue, from which the broker moves them on.

use std::{collections::HashSet, time::Duration};

use jiff::Timestamp;
use lapin::{
    Confirmation,
    message::Delivery,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::AMQPValue,
};
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::{ReplayPlan, ReplayReport};
use crate::{
    broker::{
        connection::within,
        properties::{self, short},
    },
    contract::header,
    dead::{
        DeadError, DeadLetter, DeadQueue, Progress,
        discard::BATCH_BYTES,
        reader::{Reader, WINDOW},
    },
    fault,
};

/// Maximum letters that are copied before their copies are confirmed.
const CHUNK: usize = 100;
/// Maximum copies in the replay queue at once.
const ROUND: usize = 2000;

/// The messages that an interrupted replay left in the replay queue.
#[derive(Default)]
pub(super) struct Copies {
    /// Ids of the letters that have a copy.
    pub(super) letters: HashSet<Uuid>,
    /// Messages that an operator moved into the queue by other means.
    pub(super) others: usize,
}

/// A replay in progress.
pub(super) struct Replay<'a, P> {
    pub(super) dead_queue: &'a DeadQueue<'a>,
    pub(super) plan: &'a ReplayPlan,
    pub(super) begun: Timestamp,
    /// The replay queue.
    pub(super) staging: String,
    pub(super) report: ReplayReport,
    pub(super) progress: P,
}

impl<P: FnMut(Progress)> Replay<'_, P> {
    /// Returns the copies in the replay queue, and removes duplicates.
    pub(super) async fn copies(&self) -> Result<Copies, DeadError> {
        loop {
            let ready = self.dead_queue.wait_for_sole_access(&self.staging).await?;
            let (mut copies, mut duplicates) = (Copies::default(), false);
            let mut reader = Reader::open(self.dead_queue, &self.staging, ready, WINDOW).await?;
            while let Some(copy) = reader.delivery().await? {
                let Some(id) = replay_of(&copy) else {
                    copies.others += 1;
                    continue;
                };
                if !copies.letters.insert(id) {
                    duplicates = true;
                    reader.acknowledge(&copy.acker).await?;
                }
            }
            reader.close().await?;
            if !duplicates {
                return Ok(copies);
            }
        }
    }

    /// Copies letters to the replay queue and acknowledges them, until no letter with a copy is left in the dead queue.
    /// Returns true if more letters are to be replayed.
    pub(super) async fn stage(&mut self, copies: &mut HashSet<Uuid>) -> Result<bool, DeadError> {
        let mut more = false;
        loop {
            let letters = self.dead_queue.wait_for_sole_access(&self.dead_queue.queue).await?;
            let mut reader = self.dead_queue.read(letters).await?;
            let confirms = reader.channel.confirm_select(ConfirmSelectOptions::default());
            within("select confirms", self.dead_queue.limit, self.dead_queue.connection, confirms).await?;
            let (mut batch, mut acknowledged) = (Vec::new(), 0);
            // A letter with an existing copy may be anywhere in the queue.
            let read_all = !copies.is_empty();
            (self.report.expired, self.report.newer, self.report.others) = (0, 0, 0);
            while let Some(letter) = reader.next().await? {
                if copies.contains(&letter.id) {
                    reader.settle(&letter).await?;
                    acknowledged += 1;
                } else if self.report.selects(self.plan, &letter, self.begun, self.dead_queue.clock.now()) {
                    more |= copies.len() + batch.len() >= ROUND;
                    if copies.len() + batch.len() < ROUND {
                        batch.push(letter);
                    }
                }
                if batch.len() >= CHUNK || bytes(&batch) >= BATCH_BYTES {
                    acknowledged += self.copy(&mut reader, &mut batch, copies).await?;
                }
                let seen = reader.seen;
                (self.progress)(Progress { seen, total: letters, done: self.report.total() });
                // The next round reads the remaining letters.
                if more && batch.is_empty() && !read_all {
                    break;
                }
            }
            acknowledged += self.copy(&mut reader, &mut batch, copies).await?;
            let left = reader.seen - acknowledged + (letters - reader.seen.min(letters));
            reader.close().await?;
            // Acknowledgements may not have reached the queue before the channel closed. The copies may move on only after
            // all have.
            if self.dead_queue.wait_for_sole_access(&self.dead_queue.queue).await? <= left
                || acknowledged == 0
            {
                return Ok(more);
            }
        }
    }

    /// Publishes copies of `batch`, then acknowledges the letters; returns their number. All or none, so a return need not be
    /// matched to one of several messages.
    async fn copy(
        &mut self,
        reader: &mut Reader<'_>,
        batch: &mut Vec<DeadLetter>,
        copies: &mut HashSet<Uuid>,
    ) -> Result<u32, DeadError> {
        if batch.is_empty() {
            return Ok(0);
        }
        let limit = self.dead_queue.limit;
        let mut confirms = Vec::with_capacity(batch.len());
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        fault::point("replay", "matched");
        for letter in batch.iter().filter(|letter| copies.insert(letter.id)) {
            let replays = letter.replays.saturating_add(1);
            let id = letter.id.to_string();
            let (message, queue, now) = (&letter.message, &self.staging, self.dead_queue.clock.now());
            let properties = properties::replayed(&letter.properties, message, queue, &id, replays, now);
            let body = &message.body;
            let publish =
                reader.channel.basic_publish("".into(), short(&self.staging), options, body, properties);
            confirms.push(within("publish", limit, self.dead_queue.connection, publish).await?);
        }
        for confirm in confirms {
            let problem = match within("confirm", limit, self.dead_queue.connection, confirm).await? {
                Confirmation::Ack(None) => continue,
                Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => {
                    "returned a copy (was the queue deleted?)"
                }
                _ => "refused a copy (is the queue full?)",
            };
            return Err(DeadError::Unpublished { queue: self.staging.clone(), problem });
        }
        fault::point("replay", "copied");
        for letter in batch.iter() {
            reader.settle(letter).await?;
            fault::point("replay", "acknowledged");
            self.report.count(letter);
        }
        Ok(u32::try_from(batch.drain(..).count()).unwrap_or(u32::MAX))
    }

    /// Rejects the `copies` at the configured rate, so that the broker moves them to the work queue.
    pub(super) async fn release(&mut self, copies: usize) -> Result<(), DeadError> {
        let (mut next_at, until) = (Instant::now(), Instant::now() + self.dead_queue.limit);
        let mut released = 0;
        loop {
            let ready = self.dead_queue.wait_for_sole_access(&self.staging).await?;
            // A cluster node may not yet know the messages that another node has confirmed.
            match ready {
                0 if released >= copies || Instant::now() >= until => return Ok(()),
                0 => {
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
                _ => {}
            }
            // Waiting copies are unacknowledged, so the prefetch covers at most a minute.
            let window =
                self.plan.rate.map_or(f64::from(WINDOW), |rate| rate * 60.0).clamp(1.0, f64::from(WINDOW));
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to WINDOW")]
            let mut reader = Reader::open(self.dead_queue, &self.staging, ready, window as u16).await?;
            reader.without_time_limit();
            while let Some(copy) = reader.delivery().await? {
                if let Some(rate) = self.plan.rate {
                    sleep_until(next_at).await;
                    next_at = next_at.max(Instant::now()) + Duration::from_secs_f64(1.0 / rate);
                }
                reader.reject(&copy.acker).await?;
                released += 1;
                fault::point("replay", "released");
                let done = self.report.total().saturating_sub(ready.saturating_sub(reader.seen).into());
                (self.progress)(Progress { seen: reader.seen, total: ready, done });
            }
            // If a rejection did not reach the queue, its copy is still there. If so, repeat.
            reader.close().await?;
        }
    }
}

/// Bytes of the bodies of `letters`.
fn bytes(letters: &[DeadLetter]) -> usize {
    letters.iter().map(|letter| letter.message.body.len()).sum()
}

fn replay_of(copy: &Delivery) -> Option<Uuid> {
    match copy.properties.headers().as_ref()?.inner().get(header::REPLAY_OF)? {
        AMQPValue::LongString(text) => Uuid::parse_str(&text.to_string()).ok(),
        _ => None,
    }
}
