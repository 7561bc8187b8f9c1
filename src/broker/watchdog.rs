//! Periodically reads the queue lengths of one stage, independently of its consumer, and detects a stalled consumer.
//! Broker and client can both consider a consumer active although it receives nothing. Then messages are ready, none
//! is delivered, and no error occurs.

use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, warn};

use super::{
    connection::{BrokerError, within},
    port::{BrokerChannel, BrokerConnection},
    topology::{Depth, Topology},
};
use crate::{
    state::StageState,
    telemetry::metrics::{StageMetrics, labels::QueueKind},
};

/// Consecutive checks before a consumer counts as stalled, or before checks without a reply and without deliveries end the
/// connection.
const CHECKS: u32 = 3;

/// Maximum number of checks in a row that skip an unreadable queue. Each read costs a channel and a line in the
/// broker's log.
const SKIPPED_MAX: u32 = 15;

/// Reply codes of AMQP 0-9-1: the user lacks a right.
const ACCESS_REFUSED: u16 = 403;
/// The queue does not exist.
const NOT_FOUND: u16 = 404;

/// A queue whose length is read.
#[derive(Debug)]
struct WatchedQueue {
    kind: QueueKind,
    name: String,
    /// Messages ready at the last check that could tell; 0 if the queue was missing.
    ready: Option<u64>,
    /// Checks in a row that could not read the queue, because the broker did not reply in time.
    late: u32,
    /// Checks to skip before looking at this queue again.
    skip: u32,
    /// Checks to skip after the next failure.
    next_skip: u32,
}

impl WatchedQueue {
    fn new(kind: QueueKind, name: String) -> Self {
        Self { kind, name, ready: None, late: 0, skip: 0, next_skip: 0 }
    }

    fn read(&mut self, ready: u64) {
        self.ready = Some(ready);
        (self.late, self.next_skip) = (0, 0);
    }

    /// Records that this check did not read the queue in time. A single late reply keeps the length, so that an alert for waiting
    /// messages does not restart its time.
    fn not_in_time(&mut self) {
        self.late += 1;
        if self.late >= CHECKS {
            self.ready = None;
        }
    }

    /// Records that the broker refused the read with the reply code `code`.
    fn not_read(&mut self, code: Option<u16>) {
        self.ready = (code == Some(NOT_FOUND)).then_some(0);
        self.skip = self.next_skip;
        self.next_skip = (2 * self.skip + 1).min(SKIPPED_MAX);
    }

    /// True if this check reads the queue.
    fn is_due(&mut self) -> bool {
        let due = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        due
    }
}

/// Watches the queues of one stage.
#[derive(Debug)]
pub struct Watchdog<'a, C: BrokerConnection> {
    connection: &'a C,
    channel: Option<C::Channel>,
    queue: &'a str,
    queues: Vec<WatchedQueue>,
    state: &'a StageState,
    metrics: &'a StageMetrics,
    limit: Duration,
    /// The broker denied reading a length, and this was logged.
    denied: bool,
}

/// State of a stage's work queue.
#[derive(Clone, Copy, Debug)]
struct QueueState {
    /// Messages ready for delivery.
    ready: u64,
    /// The broker reports no consumer.
    no_consumer: bool,
}

impl<'a, C: BrokerConnection> Watchdog<'a, C> {
    /// Watches the consumer of `queue` on `connection`, whose metrics are `metrics`.
    #[must_use]
    pub fn new(
        connection: &'a C,
        topology: &Topology,
        queue: &'a str,
        state: &'a StageState,
        metrics: &'a StageMetrics,
        limit: Duration,
    ) -> Self {
        let delay_queue =
            |delay: &Duration| WatchedQueue::new(QueueKind::Held, Topology::delay_queue(queue, *delay));
        let mut queues = vec![
            WatchedQueue::new(QueueKind::Work, queue.to_owned()),
            WatchedQueue::new(QueueKind::Dead, Topology::dead_queue(queue)),
        ];
        queues.extend(topology.delays().iter().map(delay_queue));
        Self { connection, channel: None, queue, queues, state, metrics, limit, denied: false }
    }

    /// Checks at this interval, until the consumer has stalled or the broker does not reply.
    pub async fn watch(mut self, interval: Duration) -> BrokerError {
        let (mut stalled, mut unanswered, mut taken) = (0, 0, self.state.taken());
        loop {
            sleep(interval).await;
            let (work, unread) = match self.check().await {
                Ok(checked) => checked,
                Err(error) => return error,
            };
            let works = self.state.oldest_work().is_some();
            let delivers = std::mem::replace(&mut taken, self.state.taken()) != taken;
            // A cluster that lost a node may reply slowly for one queue, and still serve the others.
            unanswered = if unread.is_some() && !delivers && !works { unanswered + 1 } else { 0 };
            if let Some(error) = unread {
                if unanswered >= CHECKS {
                    return error;
                }
                debug!(queue = self.queue, %error, "could not read queue length; retrying");
            }
            if delivers || works {
                stalled = 0;
            }
            let Some(QueueState { ready, no_consumer }) = work else { continue };
            let idle = self.state.is_consuming() && !works;
            // A queue that was deleted and declared again has lost its consumers and delivers to none.
            let suspicious = ready > 0 || no_consumer;
            stalled = if suspicious && idle && !delivers { stalled + 1 } else { 0 };
            if stalled >= CHECKS {
                self.metrics.silent();
                warn!(
                    queue = self.queue,
                    ready,
                    no_consumer,
                    "consumer stalled: the queue has ready messages or no consumer, and nothing is delivered; reconnecting"
                );
                return BrokerError::Ended(format!("the consumer of {} stalled", self.queue));
            }
        }
    }

    /// Updates the queue lengths in the metrics. Returns the state of the work queue, if it is known, and the timeout that ended
    /// the check early.
    async fn check(&mut self) -> Result<(Option<QueueState>, Option<BrokerError>), BrokerError> {
        let (mut work, mut unread, mut last) = (None, None, 0);
        for (index, queue) in self.queues.iter_mut().enumerate() {
            if !queue.is_due() {
                continue;
            }
            if unread.is_some() {
                queue.not_in_time();
                continue;
            }
            match depth(self.connection, self.channel.take(), &queue.name, self.limit).await {
                Ok((depth, channel)) => {
                    queue.read(depth.ready.into());
                    if matches!(queue.kind, QueueKind::Work) {
                        let (ready, no_consumer) = (depth.ready.into(), depth.consumers == 0);
                        work = Some(QueueState { ready, no_consumer });
                    }
                    self.channel = Some(channel);
                }
                // The queue is missing or access is denied, and the channel is closed. The queue may return: the
                // worker redeclares a dead queue when it needs one.
                Err(error) if error.reply_code().is_some() => {
                    let code = error.reply_code();
                    if code == Some(ACCESS_REFUSED) && !std::mem::replace(&mut self.denied, true) {
                        warn!(
                            queue = queue.name, %error,
                            "the broker denies reading a queue's length: metrics and alerts do not include it, and a stalled consumer of \
                             this queue is not detected"
                        );
                    }
                    debug!(queue = queue.name, %error, "could not read queue length");
                    queue.not_read(code);
                }
                Err(error @ BrokerError::Timeout(..)) => {
                    queue.not_in_time();
                    (unread, last) = (Some(error), index + 1);
                }
                Err(error) => return Err(error),
            }
        }
        self.metrics.set_queued(sums(&self.queues));
        // The next check reads the queue without a reply last, so the others are read in any case.
        self.queues.rotate_left(last);
        Ok((work, unread))
    }
}

/// The messages of each kind of queue, in the order of [`QueueKind`]; `None` if the length of one of them is unknown.
fn sums(queues: &[WatchedQueue]) -> [Option<u64>; 3] {
    let mut sums = [Some(0); 3];
    for queue in queues {
        let sum = &mut sums[queue.kind as usize];
        *sum = sum.zip(queue.ready).map(|(sum, ready)| sum + ready);
    }
    sums
}

/// Reads the counts of the queue `name` on `channel` or a new channel; returns the channel too.
async fn depth<C: BrokerConnection>(
    connection: &C,
    channel: Option<C::Channel>,
    name: &str,
    limit: Duration,
) -> Result<(Depth, C::Channel), BrokerError> {
    let channel = match channel {
        Some(channel) => channel,
        None => within("open channel", limit, connection, connection.open_channel()).await?,
    };
    let depth = within("read queue length", limit, &channel, channel.declare_queue(name, &[], true)).await?;
    Ok((depth, channel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_queue_is_checked_less_often_but_never_given_up() {
        let mut queue = WatchedQueue::new(QueueKind::Dead, "dead".to_owned());
        let mut checks = |count: usize, there: bool| {
            let due = |queue: &mut WatchedQueue| {
                let due = queue.is_due();
                match (due, there) {
                    (true, true) => queue.read(7),
                    (true, false) => queue.not_read(Some(NOT_FOUND)),
                    (false, _) => {}
                }
                due
            };
            (0..count).filter(|_| due(&mut queue)).collect::<Vec<_>>()
        };
        assert_eq!(checks(63, false), [0, 1, 3, 7, 15, 31, 47]);
        assert_eq!(checks(3, true), [0, 1, 2]);
        assert_eq!(checks(4, false), [0, 1, 3]);
    }

    #[test]
    fn length_that_the_broker_does_not_tell_is_unknown_and_not_zero() {
        let queue = |kind| WatchedQueue::new(kind, String::new());
        let mut queues = [queue(QueueKind::Work), queue(QueueKind::Held), queue(QueueKind::Held)];
        queues[0].read(3);
        queues[1].read(2);
        assert_eq!(sums(&queues), [Some(3), None, Some(0)], "one delay queue was never read");
        queues[2].not_read(Some(NOT_FOUND));
        assert_eq!(sums(&queues), [Some(3), Some(2), Some(0)]);
        queues[0].not_read(Some(ACCESS_REFUSED));
        assert_eq!(sums(&queues), [None, Some(2), Some(0)]);
    }
}
