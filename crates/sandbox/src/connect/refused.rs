//! Refusals, and the reading of request bodies.

use axum::{
    Json,
    body::Bytes,
    extract::rejection::BytesRejection,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};

use super::limits::{CORRELATION_ID_BYTES_MAX, code};
use crate::faults::{Endpoint, RefusalFault, RefusalShape};

/// A refusal. Its text names fields, never their values.
#[derive(Debug)]
pub(super) struct ConnectRefusal {
    pub(super) code: u32,
    pub(super) message: String,
}

impl ConnectRefusal {
    pub(super) fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(super) fn missing(field: &str) -> Self {
        Self::new(code::MISSING, format!("{field}: missing"))
    }

    pub(super) fn invalid(field: &str, expected: &str) -> Self {
        Self::new(code::INVALID, format!("{field}: expected {expected}"))
    }
}

/// Form of a refusal's response.
pub(super) struct RefusalForm {
    pub(super) status: StatusCode,
    pub(super) shape: RefusalShape,
    pub(super) numeric: bool,
}

impl RefusalForm {
    /// Form of refusals of `endpoint`; `shape` is for the v1 APIs.
    pub(super) fn of(endpoint: Endpoint, shape: RefusalShape) -> Self {
        if endpoint == Endpoint::Sms {
            Self { status: StatusCode::BAD_REQUEST, shape: RefusalShape::Flat, numeric: false }
        } else {
            Self { status: StatusCode::OK, shape, numeric: false }
        }
    }

    /// This form with the changes of a fault.
    pub(super) fn with(self, fault: RefusalFault) -> Self {
        Self {
            status: fault.http.and_then(|http| StatusCode::from_u16(http).ok()).unwrap_or(self.status),
            shape: fault.shape.unwrap_or(self.shape),
            numeric: fault.numeric,
        }
    }

    pub(super) fn response(&self, refusal: &ConnectRefusal) -> Response {
        let code: Value = if self.numeric { refusal.code.into() } else { refusal.code.to_string().into() };
        let message = &refusal.message;
        let body = match self.shape {
            RefusalShape::Flat => json!({"code": code, "message": message}),
            RefusalShape::Object => json!({"response": {"code": code, "description": message}}),
            RefusalShape::Array => json!({"response": [{"code": code, "description": message}]}),
            RefusalShape::Nested => {
                json!({"detail": {"response_message": {"code": code, "message": message}}})
            }
        };
        (self.status, Json(body)).into_response()
    }
}

/// Reads a JSON body. Invalid JSON and a wrong type have different codes.
pub(super) fn parse<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, ConnectRefusal> {
    let body = body.map_err(|_| ConnectRefusal::new(code::TOO_LARGE, "The request is too large"))?;
    serde_json::from_slice::<IgnoredAny>(&body)
        .map_err(|_| ConnectRefusal::new(code::INVALID_JSON, "Invalid JSON"))?;
    let mut json = serde_json::Deserializer::from_slice(&body);
    serde_path_to_error::deserialize(&mut json)
        .map_err(|error| ConnectRefusal::invalid(&error.path().to_string(), "another type"))
}

/// Checks the length of a correlation id.
pub(super) fn check_correlation_id(id: Option<&str>) -> Result<(), ConnectRefusal> {
    match id {
        Some(id) if id.is_empty() || id.len() > CORRELATION_ID_BYTES_MAX => {
            Err(ConnectRefusal::invalid("correlationId", "1 to 50 bytes"))
        }
        _ => Ok(()),
    }
}
