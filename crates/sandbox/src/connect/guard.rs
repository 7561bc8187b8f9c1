//! Handling of every request: counters, faults, credentials.

use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::{
    credentials::{CredentialProblem, UsedCredential},
    limits::code,
    refused::ConnectRefusal,
    state::ConnectHandle,
};
use crate::faults::{self, Endpoint, Fault};

/// Context of a request whose credential is accepted.
#[derive(Clone)]
pub(super) struct AcceptedRequest {
    pub(super) credential: UsedCredential,
    pub(super) fault: Option<Fault>,
}

/// Middleware: counts the request, applies faults and checks the credential.
pub(super) async fn guard(State(handle): State<ConnectHandle>, mut request: Request, next: Next) -> Response {
    if handle.refuses_connections() {
        return faults::cut(None);
    }
    let Some(endpoint) = Endpoint::of_connect(request.uri().path()) else {
        return next.run(request).await;
    };
    let fault = handle.arrive(endpoint, request.method());
    if let Some(fault) = &fault
        && let Some(instead) = before(fault, endpoint, &handle).await
    {
        return instead;
    }
    let response = match handle.credential(request.headers()) {
        Ok(credential) => {
            request.extensions_mut().insert(AcceptedRequest { credential, fault: fault.clone() });
            next.run(request).await
        }
        Err(problem) => refuse(endpoint, problem, &handle),
    };
    match fault {
        Some(fault) => faults::after(fault, response).await,
        None => response,
    }
}

/// Applies a fault before the request is processed. Returns a response if the fault replaces the processing.
async fn before(fault: &Fault, endpoint: Endpoint, handle: &ConnectHandle) -> Option<Response> {
    match fault {
        Fault::Status { code, retry_after } => Some(status(*code, retry_after.as_deref())),
        Fault::Refuse(refuse) => {
            let message =
                if refuse.code == code::INTERNAL { "Internal error" } else { "Fault of the sandbox" };
            let refusal = ConnectRefusal::new(refuse.code, message);
            Some(handle.refusal_form(endpoint).with(*refuse).response(&refusal))
        }
        fault => faults::before(fault, handle.control()).await,
    }
}

/// A status without a body.
fn status(code: u16, retry_after: Option<&str>) -> Response {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = status.into_response();
    if let Some(value) = retry_after.and_then(|text| HeaderValue::from_str(text).ok()) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

/// v2: 401 without a body. v1: a code in 200 or 403.
fn refuse(endpoint: Endpoint, problem: CredentialProblem, handle: &ConnectHandle) -> Response {
    if endpoint == Endpoint::Sms {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let refusal = match problem {
        CredentialProblem::Missing => ConnectRefusal::new(code::KEY_MISSING, "Service key is missing"),
        CredentialProblem::Wrong => ConnectRefusal::new(code::AUTHENTICATION, "Authentication failed"),
    };
    let mut form = handle.refusal_form(endpoint);
    if handle.forbids_wrong_key() {
        form.status = StatusCode::FORBIDDEN;
    }
    form.response(&refusal)
}
