//! Common request handling of both APIs: counters, faults, authorisation, tracking ids and errors.

use axum::{
    body::Bytes,
    extract::{Request, State, rejection::BytesRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use secrecy::ExposeSecret as _;
use serde::de::DeserializeOwned;
use serde_json::json;
use uuid::Uuid;

use super::{
    faults::{self, Endpoint, Fault},
    state::Handle,
};

/// Maximum size of a request body. The Guide and Webex document no limit; this is enough for any real request.
pub(super) const BODY_BYTES_MAX: usize = 256 * 1024;

/// Context of a request, for its handler.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) tracking_id: String,
    pub(super) fault: Option<Fault>,
}

/// An error response. [`guard`] converts it to `{"message","errors":[{"description"}],"trackingId"}`.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
    description: Option<String>,
    /// `error_description`: only a 401 of Instant Connect has this field, by which clients recognise a rejected token.
    hint: Option<&'static str>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), description: None, hint: None }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "The requested resource could not be found.")
    }

    pub(super) fn describe(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    fn unauthorised(endpoint: Endpoint, hint: &'static str) -> Self {
        let message = "The request requires a valid access token set in the Authorization request header.";
        let error = Self::new(StatusCode::UNAUTHORIZED, message);
        if endpoint == Endpoint::JoseEncrypt { Self { hint: Some(hint), ..error } } else { error }
    }

    fn body(&self, tracking_id: &str) -> String {
        let description = self.description.as_deref().unwrap_or(&self.message);
        let mut body = json!({
            "message": self.message,
            "errors": [{"description": description}],
            "trackingId": tracking_id,
        });
        if let Some(hint) = self.hint {
            body["error_description"] = hint.into();
        }
        body.to_string()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Middleware of every request: counts it, applies faults, checks the token, and adds a tracking id to the response.
pub(super) async fn guard(State(handle): State<Handle>, mut request: Request, next: Next) -> Response {
    let tracking_id = format!("ROUTERGW_{}", Uuid::new_v4());
    let endpoint = Endpoint::of(request.uri().path());
    let fault = endpoint.and_then(|endpoint| handle.arrive(endpoint, request.method()));
    request.extensions_mut().insert(Context { tracking_id: tracking_id.clone(), fault: fault.clone() });
    let instead = match &fault {
        Some(fault) => faults::before(fault, handle.control()).await,
        None => None,
    };
    let mut response = match (instead, endpoint) {
        (Some(response), _) => response,
        (None, Some(endpoint)) => match authorise(&handle, endpoint, request.headers()) {
            Ok(()) => next.run(request).await,
            Err(error) => error.into_response(),
        },
        (None, None) => next.run(request).await,
    };
    if let Some(fault) = fault {
        response = faults::after(fault, response).await;
    }
    finish(response, &tracking_id)
}

fn finish(response: Response, tracking_id: &str) -> Response {
    let (mut head, mut body) = response.into_parts();
    if let Some(error) = head.extensions.remove::<ApiError>() {
        body = error.body(tracking_id).into();
        head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        head.headers.remove(header::CONTENT_LENGTH);
        if head.status == StatusCode::UNAUTHORIZED {
            head.headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
    }
    let in_between = head.extensions.remove::<faults::InBetween>().is_some();
    if let (false, Ok(value)) = (in_between, HeaderValue::from_str(tracking_id)) {
        head.headers.insert("trackingid", value);
    }
    Response::from_parts(head, body)
}

fn authorise(handle: &Handle, endpoint: Endpoint, headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some((scheme, token)) = given.and_then(|given| given.split_once(' ')) else {
        return Err(ApiError::unauthorised(endpoint, "No access token was sent"));
    };
    if !scheme.eq_ignore_ascii_case("bearer") || token.trim() != handle.token().expose_secret() {
        return Err(ApiError::unauthorised(endpoint, "The access token expired"));
    }
    Ok(())
}

/// Reads a JSON body; the error has the path of the field and the expected value.
pub(super) fn parse<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<T, ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let error = ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported Media Type");
        return Err(error.describe("Content-Type must be application/json"));
    }
    let body = body.map_err(|rejection| {
        ApiError::new(rejection.status(), "The request body could not be read")
            .describe(format!("the limit is {BODY_BYTES_MAX} bytes"))
    })?;
    let mut json = serde_json::Deserializer::from_slice(&body);
    let parsed = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| ApiError::bad("The request body is invalid").describe(error.to_string()))?;
    json.end().map_err(|error| ApiError::bad("The request body is invalid").describe(error.to_string()))?;
    Ok(parsed)
}

/// Response for a path that neither API has.
pub(super) async fn no_such_path() -> ApiError {
    ApiError::not_found()
}

/// Response for a path that does not support the method.
pub(super) async fn no_such_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "The requested method is not allowed here.")
}
