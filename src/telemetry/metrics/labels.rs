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
    /// The work queue.
    Work,
    /// All delay queues.
    Held,
    /// The dead queue.
    Dead,
}

/// Label `result` of a call of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Called {
    /// A usable response.
    Ok,
    /// No connection, no complete response in time, 407, 408, 421, 423, 425, 5xx, or a 4xx of a proxy.
    Unavailable,
    /// 429, or another response with a Retry-After.
    RateLimited,
    /// 401.
    Token,
    /// Another 4xx: this request is refused permanently.
    Rejected,
    /// A malformed response.
    Malformed,
    /// Cancelled by `amqp.delivery_timeout` or by the end of the worker.
    Abandoned,
}

/// Label `result` of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Published {
    /// Confirmed: the message is in a queue.
    Confirmed,
    /// No queue is bound for it.
    Returned,
    /// The broker refused it.
    Nacked,
    /// No confirm: the message may have arrived.
    Unknown,
}

/// Label `connection` of the publisher's connection. Each stage's connection has the name of the stage.
pub const PUBLISH: &str = "publish";

/// Label `result` of a claim in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Claimed {
    /// Nothing is recorded: the stage acts.
    Miss,
    /// Done before; the recorded result is used.
    Hit,
    /// Another worker is processing it.
    Busy,
    /// The id was used before with different content.
    Conflict,
    /// The ledger is down.
    Failed,
}
