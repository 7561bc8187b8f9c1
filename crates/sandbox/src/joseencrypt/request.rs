//! The request body: the Guide's table of parameters, with types, ranges and defaults.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    api::ApiError,
    jose::{ContentEncryption, ITERATIONS, KeyEncryption, SALT_BYTES, Signature},
    records::RecordedVertical,
};

/// Maximum number of links in one call: of hosts, of guests, and of both together.
const LINKS_MAX: u64 = 25;
/// The year 5138 in seconds. As milliseconds, this value is a time in 1973.
const SECONDS_MAX: i64 = 100_000_000_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EncryptBody {
    aud: Uuid,
    jwt: JwtRequest,
    num_host: Option<u64>,
    num_guest: Option<u64>,
    provide_short_urls: Option<bool>,
    vertical_type: Option<RecordedVertical>,
    login_url_for_host: Option<bool>,
    jwe_alg: Option<KeyEncryption>,
    salt_length: Option<usize>,
    iterations: Option<u32>,
    enc: Option<ContentEncryption>,
    jws_alg: Option<Signature>,
}

#[derive(Deserialize)]
struct JwtRequest {
    sub: String,
    nbf: Option<i64>,
    exp: Option<i64>,
    flow: Option<RequestedFlow>,
}

/// Devices to call when the meeting starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RequestedFlow {
    id: FlowId,
    pub(crate) data: Vec<RequestedDevice>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum FlowId {
    #[serde(rename = "sip-no-knock")]
    SipNoKnock,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RequestedDevice {
    pub(crate) uri: String,
}

/// A request that conforms to the Guide, with defaults filled in.
pub(super) struct LinksRequest {
    pub(super) aud: Uuid,
    pub(super) sub: String,
    pub(super) nbf: Option<i64>,
    pub(super) exp: Option<i64>,
    pub(super) flow: Option<RequestedFlow>,
    pub(super) hosts: usize,
    pub(super) guests: usize,
    pub(super) short_urls: bool,
    pub(super) vertical: RecordedVertical,
    pub(super) login_url_for_host: bool,
    pub(super) jwe_alg: KeyEncryption,
    pub(super) salt_length: Option<usize>,
    pub(super) iterations: Option<u32>,
    pub(super) enc: ContentEncryption,
    pub(super) jws_alg: Signature,
}

impl LinksRequest {
    /// Checks the ranges of `body`, whose types are already checked, and fills in the Guide's defaults.
    pub(super) fn check(body: EncryptBody) -> Result<Self, ApiError> {
        let JwtRequest { sub, nbf, exp, flow } = body.jwt;
        if sub.is_empty() {
            return Err(invalid("jwt.sub: expected a non-empty string"));
        }
        for (name, value) in [("nbf", nbf), ("exp", exp)] {
            if value.is_some_and(|value| !(0..SECONDS_MAX).contains(&value)) {
                let hint = "expected seconds since the epoch (the Guide's samples show milliseconds, its table and RFC 7519 say seconds)";
                return Err(invalid(format!("jwt.{name}: {hint}")));
            }
        }
        for device in flow.iter().flat_map(|flow| &flow.data) {
            check_uri(&device.uri)?;
        }
        let hosts = count("numHost", body.num_host)?;
        let guests = count("numGuest", body.num_guest)?;
        if hosts + guests > LINKS_MAX {
            return Err(invalid("numHost, numGuest: the limit is 25 together"));
        }
        within("saltLength", body.salt_length, &SALT_BYTES)?;
        within("iterations", body.iterations, &ITERATIONS)?;
        Ok(Self {
            aud: body.aud,
            sub,
            nbf,
            exp,
            flow,
            hosts: usize::try_from(hosts).unwrap_or_default(),
            guests: usize::try_from(guests).unwrap_or_default(),
            short_urls: body.provide_short_urls.unwrap_or(false),
            vertical: body.vertical_type.unwrap_or_default(),
            login_url_for_host: body.login_url_for_host.unwrap_or(true),
            jwe_alg: body.jwe_alg.unwrap_or_default(),
            salt_length: body.salt_length,
            iterations: body.iterations,
            enc: body.enc.unwrap_or_default(),
            jws_alg: body.jws_alg.unwrap_or_default(),
        })
    }

    pub(super) fn devices(&self) -> Vec<String> {
        self.flow.iter().flat_map(|flow| &flow.data).map(|device| device.uri.clone()).collect()
    }
}

fn count(name: &str, value: Option<u64>) -> Result<u64, ApiError> {
    within(name, value, &(0..=LINKS_MAX))?;
    Ok(value.unwrap_or(1))
}

fn within<T: PartialOrd + std::fmt::Display>(
    name: &str,
    value: Option<T>,
    range: &std::ops::RangeInclusive<T>,
) -> Result<(), ApiError> {
    match value {
        Some(value) if !range.contains(&value) => {
            Err(invalid(format!("{name}: expected an integer from {} to {}", range.start(), range.end())))
        }
        _ => Ok(()),
    }
}

fn check_uri(uri: &str) -> Result<(), ApiError> {
    let fits =
        |part: &str| !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || c == '@' || c == ':');
    match uri.split_once('@') {
        Some((user, host)) if fits(user) && fits(host) => Ok(()),
        _ => Err(invalid("jwt.flow.data.uri: expected user@host, without a scheme such as sip:")),
    }
}

fn invalid(description: impl Into<String>) -> ApiError {
    ApiError::bad("The request body is invalid").describe(description)
}
