//! `/sandbox/faults`: trying an outage with curl.
//!
//! There is no authorisation: the sandbox listens on loopback. A page in a browser can't post here all the same,
//! because JSON from elsewhere needs a permission (CORS) that is never given.

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

/// `GET`: the rules in force, how they are written, and how often each fired.
pub(super) async fn list(State(handle): State<Handle>) -> Json<Value> {
    Json(json!({"faults": handle.shown_faults()}))
}

/// `POST`: adds a rule, the keys those of the written form, such as
/// `{"endpoint":"messages","status":429,"retry-after":7,"times":3}`.
pub(super) async fn add(
    State(handle): State<Handle>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<FaultRule>), ApiError> {
    let rule: FaultRule = api::parse(&headers, body)?;
    if handle.too_many_faults() {
        let error = ApiError::new(StatusCode::CONFLICT, "There are too many faults");
        return Err(error.describe(format!("{RULES_MAX} at most; clear them with DELETE /sandbox/faults")));
    }
    handle.fault(rule.clone());
    Ok((StatusCode::CREATED, Json(rule)))
}

/// `DELETE`: clears all rules.
pub(super) async fn clear(State(handle): State<Handle>) -> StatusCode {
    handle.clear_faults();
    StatusCode::NO_CONTENT
}
