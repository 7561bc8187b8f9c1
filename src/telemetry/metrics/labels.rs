//! The closed sets that labels take their values from.

use strum::{IntoStaticStr, VariantArray};

/// A closed set of values of one label.
pub trait Label: VariantArray + Into<&'static str> + Copy {
    /// The value as on the wire.
    fn as_str(self) -> &'static str {
        self.into()
    }

    /// All values as on the wire.
    fn texts() -> Vec<&'static str> {
        Self::VARIANTS.iter().map(|value| value.as_str()).collect()
    }
}

impl<T: VariantArray + Into<&'static str> + Copy> Label for T {}

/// Label `queue`: which of a stage's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum QueueKind {
    /// What the stage takes.
    Work,
    /// All its hold queues.
    Held,
    /// Its dead letters.
    Dead,
}

/// Label `result` of a call of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Called {
    /// An answer that can be used.
    Ok,
    /// No connection, no whole answer in time, 408, 423, 425, 5xx.
    Unavailable,
    /// 429, or another answer with a Retry-After.
    RateLimited,
    /// 401.
    Token,
    /// Another 4xx: this request is refused for good.
    Rejected,
    /// An answer that can't be believed.
    Malformed,
    /// Nobody waited for the answer any more: `amqp.delivery_timeout`, or the end of the worker.
    Abandoned,
}

/// Label `result` of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Published {
    /// The broker has it, in a queue.
    Confirmed,
    /// No queue is bound for it.
    Returned,
    /// The broker refused it.
    Nacked,
    /// No confirm came: it may or may not have arrived.
    Unknown,
}

/// Label `connection` of the publisher's connection. Each stage's connection has the name of the stage.
pub const PUBLISH: &str = "publish";

/// Label `result` of a claim in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Claimed {
    /// Nothing was recorded: the stage acts.
    Miss,
    /// It was done before; the recorded result is used.
    Hit,
    /// Another worker is at it.
    Busy,
    /// The id was used before, with other content.
    Conflict,
    /// The ledger is down.
    Failed,
}
