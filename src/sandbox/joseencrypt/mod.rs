//! `POST /api/v2/joseencrypt`: the Guide's types and ranges, and links as it describes them.
//!
//! Where the Guide is silent the sandbox is strict, because a mistake should show here and not in production:
//! `nbf` and `exp` that can only be milliseconds are refused, and so are device URIs with a scheme. It is lax
//! where strictness could hide a mistake: unknown fields, `Nbf` and `Exp` in capitals among them, are ignored.

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
use request::{AskedLinks, Flow};

/// The Guide: "set for 15 minutes later than the time when the request was made".
const DEFAULT_LIFETIME_S: i64 = 15 * 60;

/// What is inside a cipher. `role` is the sandbox's own: the Guide doesn't say how a cipher knows.
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
    pub(super) flow: Option<Flow>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LinksAnswer {
    host: Vec<MadeLinks>,
    guest: Vec<MadeLinks>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base_url: Option<String>,
}

#[derive(Serialize)]
struct MadeLinks {
    cipher: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    short: Option<String>,
}

pub(super) async fn post(
    State(handle): State<Handle>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<LinksAnswer>, ApiError> {
    let asked = AskedLinks::check(api::parse(&headers, body)?)?;
    let now = Timestamp::now();
    // PBKDF2 takes milliseconds, and the runtime's threads have connections to serve.
    let made = tokio::task::spawn_blocking(move || {
        let answer = make(&handle, &asked, now.as_second(), &context.tracking_id)?;
        handle.add_call(call(asked, now, context));
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
    asked: &AskedLinks,
    now: i64,
    tracking_id: &str,
) -> Result<LinksAnswer, jose::JoseError> {
    let links = |role, count| -> Result<Vec<MadeLinks>, jose::JoseError> {
        (0..count).map(|_| make_one(handle, asked, role, now, tracking_id)).collect()
    };
    Ok(LinksAnswer {
        host: links(RecordedRole::Host, asked.hosts)?,
        guest: links(RecordedRole::Guest, asked.guests)?,
        base_url: asked.short_urls.then(|| handle.base_url().to_string()),
    })
}

fn make_one(
    handle: &Handle,
    asked: &AskedLinks,
    role: RecordedRole,
    now: i64,
    tracking_id: &str,
) -> Result<MadeLinks, jose::JoseError> {
    let exp = asked.exp.unwrap_or(now + DEFAULT_LIFETIME_S);
    let claims = JwtClaims {
        sub: asked.sub.clone(),
        aud: asked.aud,
        iat: now,
        nbf: asked.nbf,
        exp,
        jti: Uuid::new_v4(),
        role,
        flow: asked.flow.clone(),
    };
    let claims = serde_json::to_vec(&claims).map_err(|_| jose::JoseError::Malformed("claims"))?;
    let keys = handle.keys();
    let cipher = keys.with_wrap(asked.jwe_alg, asked.salt_length, asked.iterations, |wrap| {
        jose::seal(&claims, keys.signing(), asked.jws_alg, wrap, asked.enc)
    })?;
    let short = asked.short_urls.then(|| {
        handle.add_link(RecordedLink {
            code: String::new(),
            role,
            sub: asked.sub.clone(),
            devices: asked.devices(),
            nbf: asked.nbf,
            exp,
            tracking_id: tracking_id.to_owned(),
            target: long_path(
                asked.vertical,
                role == RecordedRole::Host && asked.login_url_for_host,
                &cipher,
            ),
        })
    });
    Ok(MadeLinks { cipher, short })
}

/// The Guide's long URL without its origin: whoever tries a link must not end up on the internet.
fn long_path(vertical: RecordedVertical, login: bool, cipher: &str) -> String {
    let page = if login { "login" } else { "talk" };
    format!("/{}/v1/{page}?int=jose&v=1&data={cipher}", vertical.name())
}

fn call(asked: AskedLinks, at: Timestamp, context: Context) -> RecordedCall {
    RecordedCall {
        at,
        tracking_id: context.tracking_id,
        devices: asked.devices(),
        sub: asked.sub,
        nbf: asked.nbf,
        exp: asked.exp,
        hosts: asked.hosts,
        guests: asked.guests,
        short_urls: asked.short_urls,
        vertical: asked.vertical,
        login_url_for_host: asked.login_url_for_host,
        fault: context.fault,
    }
}
