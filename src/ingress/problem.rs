//! Problems, as responses.

use std::{borrow::Cow, time::Duration};

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, Response, StatusCode, header},
};

use crate::contract::{
    decode::{Invalid, Problem},
    http::{MEDIA_TYPES, ProblemBody, ProblemKind, ProblemPlace},
    start_session::Refusal,
};

/// Time after which a client may repeat a request that was not confirmed.
const RETRY_LATER: Duration = Duration::from_secs(5);
/// Time after which a client may repeat a request for which there was no room.
pub(super) const RETRY_SOON: Duration = Duration::from_secs(1);

/// A request that is not accepted. Contains no value from the request.
#[derive(Clone, Debug)]
pub(super) struct HttpProblem {
    pub(super) kind: ProblemKind,
    detail: Cow<'static, str>,
    errors: Vec<ProblemPlace>,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
}

impl HttpProblem {
    /// The reason. Shows no value of the request.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    pub(super) fn new(kind: ProblemKind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), retry_after: None, allow: None }
    }

    /// The event is not known to be in a queue. Repeating the request cannot lead to a second event.
    pub(super) fn unavailable(reason: &str, retry_after: Duration) -> Self {
        let detail = format!("{reason}; repeat the request: the same key is safe");
        Self::new(ProblemKind::Unavailable, detail).retry_after(retry_after)
    }

    /// As [`HttpProblem::unavailable`], for a broker or a ledger that is unavailable.
    pub(super) fn unconfirmed(reason: &str) -> Self {
        Self::unavailable(reason, RETRY_LATER)
    }

    #[must_use]
    pub(super) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    #[must_use]
    pub(super) fn allow(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }

    /// The response. The connection ends after problems that leave a body unread, or that a client without a token causes.
    pub(super) fn response(self) -> Response<Body> {
        let Self { kind, detail, errors, retry_after, allow } = self;
        let status = kind.status();
        let body = ProblemBody { kind, title: kind.title(), status, detail, errors };
        // Serialization cannot fail, because the body is text and numbers only.
        let mut response = Response::new(Body::from(serde_json::to_vec(&body).unwrap_or_default()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut set = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                response.headers_mut().insert(name, value);
            }
        };
        set(header::CONTENT_TYPE, "application/problem+json");
        if let Some(wait) = retry_after {
            set(header::RETRY_AFTER, &whole_seconds(wait).to_string());
        }
        if let Some(methods) = allow {
            set(header::ALLOW, methods);
        }
        match kind {
            ProblemKind::Unauthenticated => set(header::WWW_AUTHENTICATE, "Bearer"),
            ProblemKind::MediaType => set(HeaderName::from_static("accept-post"), &MEDIA_TYPES.join(", ")),
            _ => {}
        }
        if keeps_connection(kind) {
            return response;
        }
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

/// The client must wait, because of its rate.
pub(super) fn rate_limited(wait: Duration) -> HttpProblem {
    let detail =
        "the client sends more requests, or starts sessions for more people, than its rate and burst allow";
    HttpProblem::new(ProblemKind::RateLimited, detail).retry_after(wait)
}

/// Rounds up, because a client that comes early is refused again.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

const fn keeps_connection(kind: ProblemKind) -> bool {
    use ProblemKind::{DeviceNotAllowed, InFlight, Invalid, KeyReused};
    matches!(kind, DeviceNotAllowed | InFlight | Invalid | KeyReused)
}

impl From<Refusal> for HttpProblem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::DeviceNotAllowed(invalid) => Self::at(ProblemKind::DeviceNotAllowed, &invalid),
            Refusal::Invalid(invalid) | Refusal::Expired(invalid) => {
                Self::at(kind_of(invalid.problem()), &invalid)
            }
        }
    }
}

impl HttpProblem {
    fn at(kind: ProblemKind, invalid: &Invalid) -> Self {
        let place = ProblemPlace { pointer: invalid.pointer(), detail: invalid.explanation() };
        Self { errors: vec![place], ..Self::new(kind, invalid.to_string()) }
    }
}

const fn kind_of(problem: &Problem) -> ProblemKind {
    match problem {
        Problem::NotJson { .. } | Problem::BadSyntax(_) => ProblemKind::Malformed,
        _ => ProblemKind::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use strum::VariantArray;

    use super::*;

    #[test]
    fn every_kind_has_its_status_and_headers() {
        for kind in ProblemKind::VARIANTS.iter().copied() {
            let response = HttpProblem::new(kind, "a detail").response();
            assert_eq!(response.status().as_u16(), kind.status());
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
            assert_eq!(response.headers().contains_key("www-authenticate"), kind.status() == 401);
            assert_eq!(response.headers().contains_key("accept-post"), kind.status() == 415);
        }
    }

    #[test]
    fn retry_after_is_rounded_up() {
        for (milliseconds, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (9999, 10)] {
            assert_eq!(whole_seconds(Duration::from_millis(milliseconds)), seconds);
        }
    }
}
