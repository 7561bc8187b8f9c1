//! The closed sets that labels take their values from.

use strum::{IntoStaticStr, VariantArray};

use crate::contract::http::ProblemKind;

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

/// Label `route` of a request to the ingress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum IngressRoute {
    /// `/v1/sessions`.
    Sessions,
    /// `/v1/receipts/`.
    Receipts,
    /// `/openapi.json`.
    Openapi,
    /// Any other path.
    Other,
}

/// Label `reason` of a request that the ingress did not authenticate or not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum AuthFailure {
    /// Neither an `Authorization` header nor a signature.
    Missing,
    /// Not a bearer token, or not the headers of a signature.
    Malformed,
    /// The token of no client.
    Unknown,
    /// The signature of no client.
    Signature,
    /// The time of the signature is not near now.
    Timestamp,
    /// The signature is not checked, because too many requests of the address were refused.
    Throttled,
    /// The token or the secret of several clients.
    Shared,
    /// The client may not call from this address.
    Address,
    /// The client may not make this request.
    Scope,
}

/// Label `reason` of a receipt that is not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum ReceiptRefused {
    /// It has no signature, or no key.
    Unsigned,
    /// Its signature is wrong.
    Signature,
    /// Its key is wrong.
    Key,
    /// Its body is not readable.
    Malformed,
    /// It is about another program's message.
    Foreign,
}

/// Label `resolved_by` of a message that may have been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum ResolvedBy {
    /// A receipt shows that Webex Connect has it.
    Receipt,
    /// It is sent again.
    Repeat,
    /// It is a dead letter.
    Dead,
}

/// Label `reason` of a guest link that is sent by SMS, because `WhatsApp` does not reach the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum FallbackReason {
    /// Webex Connect rejected the message.
    Rejected,
    /// A receipt says so.
    Receipt,
}

/// Label `outcome` of a request to the ingress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// The event is confirmed.
    Accepted,
    /// An earlier request was accepted.
    Replayed,
    /// A document was served.
    Served,
    /// A receipt was not used: it is unreadable, or about another program's message.
    Ignored,
    /// The client disconnected before the response.
    Gone,
    /// A problem.
    Refused(ProblemKind),
}

impl Answered {
    /// The value as on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Replayed => "replayed",
            Self::Served => "served",
            Self::Ignored => "ignored",
            Self::Gone => "gone",
            Self::Refused(kind) => kind.as_str(),
        }
    }

    /// All values as on the wire.
    #[must_use]
    pub fn texts() -> Vec<&'static str> {
        let refused = ProblemKind::VARIANTS.iter().map(|kind| Self::Refused(*kind));
        [Self::Accepted, Self::Replayed, Self::Served, Self::Ignored, Self::Gone]
            .into_iter()
            .chain(refused)
            .map(Self::as_str)
            .collect()
    }
}
