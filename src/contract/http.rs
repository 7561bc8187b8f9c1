//! Responses of the HTTP ingress.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};

/// The media types of a request's body.
pub const MEDIA_TYPES: [&str; 2] = ["application/json", "application/cloudevents+json"];

/// Kind of a problem: its `type`, and the label `outcome` of the ingress's metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema, IntoStaticStr, VariantArray)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
#[strum(serialize_all = "kebab-case")]
pub enum ProblemKind {
    /// The request is not well-formed: the body is not JSON, or a header is wrong.
    Malformed,
    /// No valid token, or no valid signature.
    Unauthenticated,
    /// The client may not make this request.
    Forbidden,
    /// No such path.
    NotFound,
    /// The path has no such method.
    Method,
    /// The body did not arrive in time.
    Slow,
    /// Another request with the same key is in progress.
    InFlight,
    /// The body is too large.
    TooLarge,
    /// The body has another media type or an encoding.
    MediaType,
    /// The start event violates the contract.
    Invalid,
    /// The start event names a device that is not allowed.
    DeviceNotAllowed,
    /// The key was used before with another body.
    KeyReused,
    /// The client sends too many requests.
    RateLimited,
    /// A defect of the program.
    Internal,
    /// The start event or the receipt was not confirmed.
    Unavailable,
}

impl ProblemKind {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Method => 405,
            Self::Slow => 408,
            Self::InFlight => 409,
            Self::TooLarge => 413,
            Self::MediaType => 415,
            Self::Invalid | Self::DeviceNotAllowed | Self::KeyReused => 422,
            Self::RateLimited => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }

    /// A short summary, the same for every problem of this kind.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Malformed => "The request is malformed",
            Self::Unauthenticated => "The request is not authenticated",
            Self::Forbidden => "The client is not allowed to do this",
            Self::NotFound => "There is nothing at this path",
            Self::Method => "The path has no such method",
            Self::Slow => "The body arrived too slowly",
            Self::InFlight => "A request with the same key is in progress",
            Self::TooLarge => "The body is too large",
            Self::MediaType => "The body's media type or encoding is not supported",
            Self::Invalid => "The start event is invalid",
            Self::DeviceNotAllowed => "A device is not allowed",
            Self::KeyReused => "The key was used with another body",
            Self::RateLimited => "Too many requests",
            Self::Internal => "Internal error",
            Self::Unavailable => "The message was not confirmed",
        }
    }
}

/// The body of a problem, `application/problem+json` (RFC 9457). It contains no value from the request.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(title = "Problem")]
pub struct ProblemBody {
    /// The kind of the problem.
    #[serde(rename = "type")]
    pub kind: ProblemKind,
    /// The summary of the kind.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// The problem, for a person.
    pub detail: Cow<'static, str>,
    /// The places of the problem in the body.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("default" = []))]
    pub errors: Vec<ProblemPlace>,
}

/// A place of a problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct ProblemPlace {
    /// JSON Pointer into the body (RFC 6901).
    pub pointer: String,
    /// The problem at this place.
    pub detail: String,
}

/// The body of a 202: the start event is in a queue. The links follow by message, or the event becomes a dead letter.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "Accepted")]
pub struct AcceptedBody {
    /// Always `accepted`.
    #[schemars(extend("const" = "accepted"))]
    pub status: &'static str,
    /// The event's id: the same at every repeat, and on every message about the event.
    pub event_id: String,
    /// The session's id, as in the request.
    pub session_id: String,
    /// True if an earlier request with the same key and body was accepted, and this one had no effect.
    pub replayed: bool,
}
