//! `POST /api/v2/joseencrypt`: the Guide's types and ranges, and links as described there.
//!
//! If the Guide defines no rule, the sandbox is strict, so that a mistake shows here and not in production: it refuses
//! `nbf` and `exp` in milliseconds, and device URIs with a scheme. The sandbox ignores unknown fields, such as `Nbf` and
//! `Exp` in capitals, because strictness could hide a mistake there.

mod request;

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    api::{self, ApiError, Context},
    jose,
    records::{RecordedCall, RecordedLink, RecordedRole, RecordedVertical},
    state::Handle,
};
use request::{LinksRequest, RequestedFlow};

/// The Guide: "set for 15 minutes later than the time when the request was made".
const DEFAULT_LIFETIME_S: i64 = 15 * 60;

/// Content of a cipher. `role` exists only in the sandbox: the Guide does not document how a cipher holds the role.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct JwtClaims {
    pub(super) sub: String,
    aud: Uuid,
    iat: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nbf: Option<i64>,
    pub(super) exp: i64,
    jti: Uuid,
    pub(super) role: RecordedRole,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) flow: Option<RequestedFlow>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LinksResponse {
    host: Vec<MadeLink>,
    guest: Vec<MadeLink>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base_url: Option<String>,
}

#[derive(Serialize)]
struct MadeLink {
    cipher: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    short: Option<String>,
}

pub(super) async fn post(
    State(handle): State<Handle>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<LinksResponse>, ApiError> {
    let request = LinksRequest::check(api::parse(&headers, body)?)?;
    let now = Timestamp::now();
    // PBKDF2 takes milliseconds and must not block the runtime.
    let made = tokio::task::spawn_blocking(move || {
        let answer = make(&handle, &request, now.as_second(), &context.tracking_id)?;
        handle.add_call(call(request, now, context));
        Ok::<_, jose::JoseError>(answer)
    });
    match made.await {
        Ok(Ok(answer)) => Ok(Json(answer)),
        Ok(Err(_)) | Err(_) => {
            Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "The sandbox could not make the ciphers."))
        }
    }
}

fn make(
    handle: &Handle,
    request: &LinksRequest,
    now: i64,
    tracking_id: &str,
) -> Result<LinksResponse, jose::JoseError> {
    let links = |role, count| -> Result<Vec<MadeLink>, jose::JoseError> {
        (0..count).map(|_| make_one(handle, request, role, now, tracking_id)).collect()
    };
    Ok(LinksResponse {
        host: links(RecordedRole::Host, request.hosts)?,
        guest: links(RecordedRole::Guest, request.guests)?,
        base_url: request.short_urls.then(|| handle.base_url().to_string()),
    })
}

fn make_one(
    handle: &Handle,
    request: &LinksRequest,
    role: RecordedRole,
    now: i64,
    tracking_id: &str,
) -> Result<MadeLink, jose::JoseError> {
    let exp = request.exp.unwrap_or(now + DEFAULT_LIFETIME_S);
    let claims = JwtClaims {
        sub: request.sub.clone(),
        aud: request.aud,
        iat: now,
        nbf: request.nbf,
        exp,
        jti: Uuid::new_v4(),
        role,
        flow: request.flow.clone(),
    };
    let claims = serde_json::to_vec(&claims).map_err(|_| jose::JoseError::Malformed("claims"))?;
    let keys = handle.keys();
    let cipher = keys.with_wrap(request.jwe_alg, request.salt_length, request.iterations, |wrap| {
        jose::seal(&claims, keys.signing(), request.jws_alg, wrap, request.enc)
    })?;
    let short = request.short_urls.then(|| {
        handle.add_link(RecordedLink {
            code: String::new(),
            role,
            sub: request.sub.clone(),
            devices: request.devices(),
            nbf: request.nbf,
            exp,
            tracking_id: tracking_id.to_owned(),
            target: long_path(
                request.vertical,
                role == RecordedRole::Host && request.login_url_for_host,
                &cipher,
            ),
        })
    });
    Ok(MadeLink { cipher, short })
}

/// The Guide's long URL without its origin, so that a link of the sandbox does not lead to the internet.
fn long_path(vertical: RecordedVertical, login: bool, cipher: &str) -> String {
    let page = if login { "login" } else { "talk" };
    format!("/{}/v1/{page}?int=jose&v=1&data={cipher}", vertical.name())
}

fn call(request: LinksRequest, at: Timestamp, context: Context) -> RecordedCall {
    RecordedCall {
        at,
        tracking_id: context.tracking_id,
        devices: request.devices(),
        sub: request.sub,
        nbf: request.nbf,
        exp: request.exp,
        hosts: request.hosts,
        guests: request.guests,
        short_urls: request.short_urls,
        vertical: request.vertical,
        login_url_for_host: request.login_url_for_host,
        fault: context.fault,
    }
}
