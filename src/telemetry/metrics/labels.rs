//! The closed sets that labels take their values from.

use crate::outcome::{Cause, Class};

/// A closed set of values of one label.
pub trait Label: Copy + 'static {
    /// All of them.
    const ALL: &'static [Self];

    /// As on the wire.
    fn as_str(self) -> &'static str;

    /// All of them, as on the wire.
    fn texts() -> Vec<&'static str> {
        Self::ALL.iter().map(|value| value.as_str()).collect()
    }
}

macro_rules! label {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $value,)+ }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$value),+];

            fn as_str(self) -> &'static str {
                match self { $(Self::$value => $text),+ }
            }
        }
    };
}

label! {
    /// Label `stage`.
    Stage {
        /// Events become links.
        Link = "link",
        /// Host links become messages.
        Host = "host",
    }
}

label! {
    /// Label `outcome`: how a delivery ended.
    Ended {
        /// Everything published, acknowledged.
        Done = "done",
        /// A copy waits in a hold queue, its attempt counted; acknowledged.
        TryAgain = "try-again",
        /// A copy waits in a hold queue, nothing counted; acknowledged.
        Wait = "wait",
        /// It came back before its time and waits on; acknowledged.
        Early = "early",
        /// In the dead queue, acknowledged.
        Dead = "dead",
        /// Given back to the broker, for the worker ends or failed.
        Requeued = "requeued",
        /// Given back to the broker, for what was decided could not be done.
        Unfulfilled = "unfulfilled",
        /// Its channel was gone: the broker delivers it again.
        Lost = "lost",
    }
}

label! {
    /// Label `queue`: which of a stage's queues.
    Queue {
        /// What the stage takes.
        Work = "work",
        /// All its hold queues.
        Held = "held",
        /// Its dead letters.
        Dead = "dead",
    }
}

label! {
    /// Label `upstream`.
    Upstream {
        /// Instant Connect, called by stage `link`.
        InstantConnect = "instant_connect",
        /// The Messages API, called by stage `host`.
        WebexMessages = "webex_messages",
    }
}

label! {
    /// Label `result` of a call of an upstream.
    Called {
        /// An answer that can be used.
        Ok = "ok",
        /// No connection, no whole answer in time, 408, 423, 425, 5xx.
        Unavailable = "unavailable",
        /// 429, or another answer with a Retry-After.
        RateLimited = "rate-limited",
        /// 401.
        Token = "token",
        /// Another 4xx: this request is refused for good.
        Rejected = "rejected",
        /// An answer that can't be believed.
        Malformed = "malformed",
        /// Nobody waited for the answer any more: `amqp.delivery_timeout`, or the end of the worker.
        Abandoned = "abandoned",
    }
}

label! {
    /// Label `result` of a publish.
    Published {
        /// The broker has it, in a queue.
        Confirmed = "confirmed",
        /// No queue is bound for it.
        Returned = "returned",
        /// The broker refused it.
        Nacked = "nacked",
        /// No confirm came: it may or may not have arrived.
        Unknown = "unknown",
    }
}

label! {
    /// Label `connection`: what a connection to the broker is for.
    Connection {
        /// Deliveries of stage `link`.
        Link = "link",
        /// Deliveries of stage `host`.
        Host = "host",
        /// Everything that is published.
        Publish = "publish",
    }
}

label! {
    /// Label `result` of a claim in the ledger.
    Claimed {
        /// Nothing was recorded: the stage acts.
        Miss = "miss",
        /// It was done before; the recorded result is used.
        Hit = "hit",
        /// Another worker is at it.
        Busy = "busy",
        /// The id was used before, with other content.
        Conflict = "conflict",
        /// The ledger is down.
        Failed = "failed",
    }
}

impl Upstream {
    /// The one that `stage` calls.
    #[must_use]
    pub const fn of(stage: Stage) -> Self {
        match stage {
            Stage::Link => Self::InstantConnect,
            Stage::Host => Self::WebexMessages,
        }
    }
}

impl Label for Cause {
    const ALL: &'static [Self] = &Self::ALL;

    fn as_str(self) -> &'static str {
        Self::as_str(self)
    }
}

impl Label for Class {
    const ALL: &'static [Self] = &Self::ALL;

    fn as_str(self) -> &'static str {
        Self::as_str(self)
    }
}
