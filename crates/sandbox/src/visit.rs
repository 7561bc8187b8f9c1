//! Targets of links: `GET /visit/{code}`, and the page in place of Webex's page for the long URL.

use axum::{
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use jiff::Timestamp;
use serde::Deserialize;

use super::{
    jose,
    joseencrypt::JwtClaims,
    page::{self, escape},
    records::RecordedRole,
    state::Handle,
};

/// Follows a short link: 302 to the long form, 404 for an unknown code, 410 for an expired link.
pub(super) async fn visit(State(handle): State<Handle>, Path(code): Path<String>) -> Response {
    match handle.link(&code) {
        None => notice(StatusCode::NOT_FOUND, "This link does not exist", "The code is unknown."),
        Some(link) if link.exp <= Timestamp::now().as_second() => gone(link.exp),
        Some(link) => (StatusCode::FOUND, [(header::LOCATION, link.target)]).into_response(),
    }
}

#[derive(Deserialize)]
pub(super) struct Long {
    int: String,
    v: String,
    data: String,
}

/// The paths of the Guide's long links and of the healthcare links that short links lead to.
pub(super) const LONG_PATHS: [&str; 4] = ["/gen/v1/login", "/gen/v1/talk", "/hc/v1/login", "/hc/v1/talk"];

/// Opens the cipher and shows the role, the meeting, its times and the called devices.
pub(super) async fn long(
    State(handle): State<Handle>,
    uri: Uri,
    query: Result<Query<Long>, QueryRejection>,
) -> Response {
    let Some(Query(query)) = query.ok().filter(|query| query.int == "jose" && query.v == "1") else {
        let hint = "The link needs the parameters int=jose, v=1 and data.";
        return notice(StatusCode::BAD_REQUEST, "This link is incomplete", hint);
    };
    // The cipher may require 32,767 rounds of PBKDF2.
    let opened = tokio::task::spawn_blocking(move || jose::open(&query.data, handle.keys().password()));
    let claims = opened.await.ok().and_then(Result::ok);
    let Some(claims) = claims.and_then(|claims| serde_json::from_slice::<JwtClaims>(&claims).ok()) else {
        let hint = "The cipher cannot be decrypted with this sandbox's password.";
        return notice(StatusCode::BAD_REQUEST, "This link is invalid", hint);
    };
    if claims.exp <= Timestamp::now().as_second() {
        return gone(claims.exp);
    }
    page::html(StatusCode::OK, "Instant Connect", &joined(&claims, uri.path()))
}

fn joined(claims: &JwtClaims, path: &str) -> String {
    let (who, what) = match claims.role {
        RecordedRole::Host => ("host", "You are the <b>host</b>: the meeting starts when you join."),
        RecordedRole::Guest => ("guest", "You are a <b>guest</b>: you wait until a host has joined."),
    };
    let early = claims.nbf.filter(|nbf| *nbf > Timestamp::now().as_second());
    let opens = early.map_or_else(|| "now".to_owned(), |nbf| format!("not before {}", time(nbf)));
    let devices: Vec<String> =
        claims.flow.iter().flat_map(|flow| &flow.data).map(|device| escape(&device.uri)).collect();
    let devices = if devices.is_empty() { "none".to_owned() } else { devices.join("<br>") };
    let sign_in = if path.ends_with("/login") { "required" } else { "not required" };
    format!(
        "<p class=\"badge {who}\">{who}</p><p class=lead>{what}</p><dl>\
         <dt>Meeting</dt><dd>{sub}</dd><dt>Opens</dt><dd>{opens}</dd><dt>Closes</dt><dd>{closes}</dd>\
         <dt>Wording</dt><dd>{wording}</dd><dt>Sign-in</dt><dd>{sign_in}</dd>\
         <dt>Devices called</dt><dd>{devices}</dd></dl>\
         <p class=note>This is a sandbox: no device is called, and no video starts.</p>",
        sub = escape(&claims.sub),
        closes = time(claims.exp),
        wording = if path.starts_with("/hc/") { "healthcare" } else { "general" },
    )
}

fn gone(exp: i64) -> Response {
    notice(StatusCode::GONE, "This link has expired", &format!("The link expired at {}.", time(exp)))
}

fn notice(status: StatusCode, title: &str, text: &str) -> Response {
    page::html(status, title, &format!("<p class=lead>{}</p>", escape(text)))
}

fn time(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}
