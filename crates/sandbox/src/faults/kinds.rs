//! Kinds of faults, and the requests that can have them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The requests of a rule or a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Endpoint {
    /// `/api/v2/joseencrypt`
    JoseEncrypt,
    /// `/v1/messages` and all paths below it, for posting and reading
    Messages,
    /// `/v1/people/me`
    People,
    /// `/v2/messages` of Webex Connect
    Sms,
    /// `/resources/v1/messaging` of Webex Connect
    WhatsApp,
    /// `/resources/v1/events/externalevent/` of Webex Connect
    Event,
    /// The receipts of one message that Webex Connect has accepted; `Any` does not include them.
    Receipts,
    /// All endpoints of a server.
    Any,
}

impl Endpoint {
    /// The endpoint of a request path; `None` for the sandbox's own pages, which never fail.
    pub(crate) fn of(path: &str) -> Option<Self> {
        match path {
            "/api/v2/joseencrypt" => Some(Self::JoseEncrypt),
            "/v1/messages" => Some(Self::Messages),
            _ if path.starts_with("/v1/messages/") => Some(Self::Messages),
            _ if path.starts_with("/v1/people/") => Some(Self::People),
            _ => None,
        }
    }

    /// As [`Self::of`], for the server of Webex Connect.
    pub(crate) fn of_connect(path: &str) -> Option<Self> {
        match path {
            "/v2/messages" => Some(Self::Sms),
            "/resources/v1/messaging" => Some(Self::WhatsApp),
            "/resources/v1/events/externalevent/" => Some(Self::Event),
            _ => None,
        }
    }

    pub(crate) fn covers(self, other: Self) -> bool {
        self == other || (self == Self::Any && other != Self::Receipts)
    }

    /// True if rules with this endpoint act on the server of Webex Connect.
    #[must_use]
    pub const fn is_connect(self) -> bool {
        matches!(self, Self::Sms | Self::WhatsApp | Self::Event | Self::Receipts | Self::Any)
    }

    /// True if rules with this endpoint act on the server of Instant Connect and Webex Messages.
    #[must_use]
    pub const fn is_webex(self) -> bool {
        matches!(self, Self::JoseEncrypt | Self::Messages | Self::People | Self::Any)
    }
}

/// A kind of fault.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// This status, in Cisco's form, with `Retry-After` as written (even if malformed). Nothing is done.
    Status {
        /// HTTP status; the text form accepts 200 to 599.
        code: u16,
        /// Seconds, a date, or an invalid value.
        #[serde(rename = "retryAfter")]
        retry_after: Option<String>,
    },
    /// An HTML page with this status and without a tracking id, as of a proxy or a load balancer. Nothing is done.
    Page {
        /// 200 to 599.
        code: u16,
    },
    /// The usual response, later by this duration.
    Delay(Duration),
    /// No response for ten minutes, or until the client disconnects. Nothing is done.
    Hang,
    /// The connection is closed without a byte of a response. Nothing is done.
    CutBeforeEffect,
    /// The request is processed; the connection is closed without a byte of the response.
    CutAfterEffect,
    /// The request is processed; half of the response is sent, then the connection is closed.
    CutBody,
    /// The request is processed; the response is 200 but not JSON.
    Garbage,
    /// The request is processed; the response is 200 and JSON, but does not match the request.
    WrongShape(WrongShape),
    /// The request is processed; the response is 200 with a body of this size, without a `Content-Length`.
    Huge {
        /// In MiB (1,048,576 bytes).
        mib: u32,
    },
    /// The request is processed; the response is 200 without a body.
    Empty,
    /// A refusal of Webex Connect. Nothing is done.
    Refuse(RefusalFault),
    /// Other receipts than usual for one message.
    Receipt(ReceiptFault),
}

impl Fault {
    /// True if requests to the endpoint can have this fault; for [`Endpoint::Any`], if those to any endpoint can.
    pub(super) fn suits(&self, endpoint: Endpoint) -> bool {
        match self {
            Self::Delay(_) => true,
            Self::Receipt(_) => endpoint == Endpoint::Receipts,
            _ if endpoint == Endpoint::Receipts => false,
            Self::Refuse(_) => endpoint.is_connect(),
            Self::WrongShape(WrongShape::EmptyResponse | WrongShape::MissingResponse) => {
                endpoint.is_connect()
            }
            Self::WrongShape(_) => endpoint.covers(Endpoint::JoseEncrypt),
            _ => true,
        }
    }
}

/// A refusal of Webex Connect with any code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RefusalFault {
    /// Webex Connect's code, such as 7020.
    pub code: u32,
    /// HTTP status, 200 to 599. Default: 400 for SMS, otherwise 200.
    pub http: Option<u16>,
    /// Form of the body. Default: as of other refusals.
    pub shape: Option<RefusalShape>,
    /// True: the code is a JSON number. False: a string.
    pub numeric: bool,
}

/// Form of a refusal of Webex Connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalShape {
    /// `{"code","message"}`, the form of SMS.
    Flat,
    /// `{"response":{"code","description"}}`
    Object,
    /// `{"response":[{"code","description"}]}`
    Array,
    /// `{"detail":{"response_message":{"code","message"}}}`, which a client behind a gateway has met.
    Nested,
}

/// A fault of the receipts of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReceiptFault {
    /// No receipt is sent.
    Drop,
    /// Each receipt is sent twice, byte by byte the same.
    Duplicate,
    /// The receipts are sent in reverse order.
    Reorder,
    /// The signature of each receipt is wrong.
    BadSignature,
    /// The last receipt reports a failure with this code.
    Fail(u32),
}

/// A wrong response that is valid JSON: the last two of Webex Connect, the others of `joseencrypt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WrongShape {
    /// One guest link fewer than requested.
    FewerGuests,
    /// `baseUrl` is `http://instant.webex.com/visit/`.
    HttpBase,
    /// `baseUrl` is `https://instant.example.net/visit/`.
    ForeignBase,
    /// The first guest has the `short` of the first host, which must never reach a guest.
    HostAsGuest,
    /// The first guest has no `short`.
    MissingShort,
    /// `response` is an empty array; for SMS, the body is one.
    EmptyResponse,
    /// There is no `response`; for SMS, no `messageId`.
    MissingResponse,
}
