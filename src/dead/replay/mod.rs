//! Moves letters back to the queue that they came from.
//!
//! - `steps`: the copies, and the two steps of each letter

mod steps;

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use self::steps::{Copies, Replay};
use super::{DeadError, DeadLetter, DeadQueue, Filter, Progress};
use crate::broker::topology::Topology;

/// Selection and rate of a replay.
#[derive(Clone, Debug)]
pub(crate) struct ReplayPlan {
    /// Selects the letters.
    pub filter: Filter,
    /// `instant_connect.link_lifetime`, the length of a session without `expiresAt`.
    pub link_lifetime: Duration,
    /// Maximum letters per second.
    pub rate: Option<f64>,
}

/// Result of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReplayReport {
    /// Letters replayed (in a dry run: to be replayed), by class.
    pub replayed: BTreeMap<&'static str, u64>,
    /// Letters skipped because their sessions have ended.
    pub expired: u64,
    /// Letters skipped because they died after the replay began.
    pub newer: u64,
    /// Letters skipped by the filter, or unreadable.
    pub others: u64,
    /// Copies left by an interrupted replay, now replayed too.
    pub resumed: u64,
}

impl ReplayReport {
    /// Replayed letters of all classes.
    #[must_use]
    pub(crate) fn total(&self) -> u64 {
        self.replayed.values().sum::<u64>() + self.resumed
    }

    /// True if `letter` is to be replayed; otherwise counts it as skipped.
    fn selects(&mut self, plan: &ReplayPlan, letter: &DeadLetter, begun: Timestamp, now: Timestamp) -> bool {
        // The copy of an unreadable letter would lack its properties.
        let skipped = if letter.unreadable || !plan.filter.matches(letter, begun) {
            &mut self.others
        } else if letter.ends_at(plan.link_lifetime).is_some_and(|end| end <= now) {
            &mut self.expired
        } else if letter.died_at.is_some_and(|died| died >= begun) {
            &mut self.newer
        } else {
            return true;
        };
        *skipped += 1;
        false
    }

    fn count(&mut self, letter: &DeadLetter) {
        *self.replayed.entry(class(letter)).or_default() += 1;
    }
}

/// The class's name, or `none`.
#[must_use]
pub(crate) fn class(letter: &DeadLetter) -> &'static str {
    letter.class.map_or("none", |class| class.as_str())
}

/// Dry run: reports the letters that [`run`] would replay, and changes nothing.
///
/// # Errors
/// [`DeadError`].
pub(crate) async fn dry_run(
    dead_queue: &DeadQueue<'_>,
    plan: &ReplayPlan,
    mut progress: impl FnMut(Progress),
) -> Result<ReplayReport, DeadError> {
    let begun = dead_queue.clock.now();
    let mut report = ReplayReport { resumed: dead_queue.staged.into(), ..ReplayReport::default() };
    let mut reader = dead_queue.read(dead_queue.letters).await?;
    while let Some(letter) = reader.next().await? {
        if report.selects(plan, &letter, begun, dead_queue.clock.now()) {
            report.count(&letter);
        }
        progress(Progress { seen: reader.seen, total: dead_queue.letters, done: 0 });
    }
    reader.close().await?;
    Ok(report)
}

/// Replays letters. It can be run again after an interruption at any moment; [`super`] explains why nothing is duplicated.
///
/// # Errors
/// [`DeadError`].
pub(crate) async fn run(
    dead_queue: &DeadQueue<'_>,
    plan: &ReplayPlan,
    progress: impl FnMut(Progress),
) -> Result<ReplayReport, DeadError> {
    let work = dead_queue.topology.queue(dead_queue.work);
    dead_queue.topology.verify(dead_queue.connection, &work, true, dead_queue.limit).await?;
    let staging = Topology::replay_queue(&work);
    let mut replay = Replay {
        dead_queue,
        plan,
        begun: dead_queue.clock.now(),
        staging,
        report: ReplayReport::default(),
        progress,
    };
    loop {
        let Copies { letters: mut copies, others } = replay.copies().await?;
        replay.report.resumed += (copies.len() + others) as u64;
        let more = replay.stage(&mut copies).await?;
        replay.release(copies.len() + others).await?;
        if !more {
            return Ok(replay.report);
        }
    }
}
