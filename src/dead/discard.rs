//! Drops letters permanently.

use std::collections::HashSet;

use tracing::warn;
use uuid::Uuid;

use super::{DeadError, DeadLetter, DeadQueue, Filter, Progress, reader::Reader};
use crate::contract::private::loggable_id;

/// Letters named in one log line.
const BATCH: usize = 100;
/// Bytes of bodies in memory at most, but for the last letter.
pub(super) const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Drops the letters that `filter` selects, and logs each with the reason before it is dropped. Reports to `progress`
/// after each letter; returns the number of dropped letters.
///
/// # Errors
/// [`DeadError`]; the log names all letters dropped before.
pub(crate) async fn discard(
    dead_queue: &DeadQueue<'_>,
    filter: &Filter,
    reason: &str,
    mut progress: impl FnMut(Progress),
) -> Result<u64, DeadError> {
    let begun = dead_queue.clock.now();
    let mut dropped = HashSet::new();
    loop {
        let letters = dead_queue.wait_for_sole_access(&dead_queue.queue).await?;
        let mut reader = dead_queue.read(letters).await?;
        let (mut batch, mut bytes, mut acknowledged) = (Vec::new(), 0, 0);
        while let Some(letter) = reader.next().await? {
            // Letters that died after the start were not part of the operator's decision.
            if filter.matches(&letter, begun) && letter.died_at.is_none_or(|died| died < begun) {
                bytes += letter.message.body.len();
                batch.push(letter);
            }
            if batch.len() == BATCH || bytes >= BATCH_BYTES {
                bytes = 0;
                acknowledged += drop_batch(&mut reader, dead_queue, &mut batch, reason, &mut dropped).await?;
            }
            progress(Progress { seen: reader.seen, total: letters, done: dropped.len() as u64 });
        }
        acknowledged += drop_batch(&mut reader, dead_queue, &mut batch, reason, &mut dropped).await?;
        let left = reader.seen - acknowledged;
        reader.close().await?;
        // Acknowledgements may not have reached the queue before the channel closed. If so, repeat.
        if dead_queue.wait_for_sole_access(&dead_queue.queue).await? <= left || acknowledged == 0 {
            return Ok(dropped.len() as u64);
        }
    }
}

async fn drop_batch(
    reader: &mut Reader<'_>,
    dead_queue: &DeadQueue<'_>,
    batch: &mut Vec<DeadLetter>,
    reason: &str,
    dropped: &mut HashSet<Uuid>,
) -> Result<u32, DeadError> {
    if batch.is_empty() {
        return Ok(0);
    }
    let events: Vec<_> = batch.iter().map(|letter| loggable_id(&letter.event)).collect();
    warn!(
        queue = dead_queue.queue,
        letters = batch.len(),
        events = events.join(" "),
        reason,
        "dropping dead letters"
    );
    for letter in batch.iter() {
        reader.settle(letter).await?;
        dropped.insert(letter.id);
    }
    Ok(u32::try_from(batch.drain(..).count()).unwrap_or(u32::MAX))
}
