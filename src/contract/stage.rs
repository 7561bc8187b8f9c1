//! Stages and queues as data: the names that topology, metrics, health, checks and dead letters take from one table.

use super::outgoing::Route;

/// A stage.
#[derive(Debug, PartialEq, Eq)]
pub struct StageDef {
    /// The label `stage`; also the label `connection` of its own connection to the broker.
    pub name: &'static str,
    /// The queue that the stage consumes. It has a delay queue for each of `retry.delays`.
    pub queue: &'static QueueDef,
    /// Queues of the stage's messages that other programs consume.
    pub feeds: &'static [&'static QueueDef],
    /// The routes of the stage's messages.
    pub routes: &'static [Route],
    /// The API that the stage calls.
    pub upstream: UpstreamDef,
    /// The histogram of the time that people wait for the stage.
    pub latency: LatencyDef,
}

/// A work queue. Each has a dead queue and a replay queue.
#[derive(Debug, PartialEq, Eq)]
pub struct QueueDef {
    /// Name, without the prefix.
    pub name: &'static str,
    /// Exchange, without the prefix, and routing key of each binding.
    pub bindings: &'static [(&'static str, &'static str)],
    /// Kind of its messages.
    pub messages: MessageKind,
}

/// Kind of the messages of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// Start events.
    StartEvent,
    /// Guest links.
    GuestLink,
    /// Host links.
    HostLink,
}

/// An API that a stage calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamDef {
    /// The label `upstream`.
    pub label: &'static str,
    /// Name in error texts.
    pub title: &'static str,
    /// Ledger key of its rate limit.
    pub key: &'static str,
}

/// A histogram of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencyDef {
    /// Name, without the prefix.
    pub name: &'static str,
    /// Meaning.
    pub help: &'static str,
}

/// The work queues of `stages`, in the order of the table.
pub fn queues<'a>(stages: &'a [&'static StageDef]) -> impl Iterator<Item = &'static QueueDef> + use<'a> {
    stages.iter().flat_map(|stage| [stage.queue].into_iter().chain(stage.feeds.iter().copied()))
}
