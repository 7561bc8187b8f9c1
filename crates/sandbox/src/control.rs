//! `/sandbox/faults`: fault injection with curl.
//!
//! There is no authorisation, because the sandbox listens on loopback. A web page in a browser can't post here, because
//! JSON from another origin needs a CORS permission that the sandbox never gives.

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode},
};
use serde_json::{Value, json};

use super::{
    api::{self, ApiError},
    faults::{FaultRule, RULES_MAX},
    state::Handle,
};

/// `GET`: the active rules, their text form, and the number of times each rule fired.
pub(super) async fn list(State(handle): State<Handle>) -> Json<Value> {
    Json(json!({"faults": handle.shown_faults()}))
}

/// `POST`: adds a rule. The keys are those of the text form, as in
/// `{"endpoint":"messages","status":429,"retry-after":7,"times":3}`.
pub(super) async fn add(
    State(handle): State<Handle>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<FaultRule>), ApiError> {
    let rule: FaultRule = api::parse(&headers, body)?;
    if handle.too_many_faults() {
        let error = ApiError::new(StatusCode::CONFLICT, "There are too many faults");
        return Err(
            error.describe(format!("the limit is {RULES_MAX} rules; clear them with DELETE /sandbox/faults"))
        );
    }
    handle.fault(rule.clone());
    Ok((StatusCode::CREATED, Json(rule)))
}

/// `DELETE`: clears all rules.
pub(super) async fn clear(State(handle): State<Handle>) -> StatusCode {
    handle.clear_faults();
    StatusCode::NO_CONTENT
}
